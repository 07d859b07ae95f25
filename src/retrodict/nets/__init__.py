"""Networks, all through one door.

An *architecture* is what a user writes, `ResMLP(width=256, depth=4)`; `build(layout, key=...)` makes the network with
its weights, which maps

    (values (d,), roles (d,), time)  ->  prediction (d,)

for one example, with whatever it likes at tokens that are not latent. A network does not know what it is asked, nor
along which path it is trained.
"""

from retrodict.nets._base import AbstractArchitecture as AbstractArchitecture
from retrodict.nets._base import AbstractNet as AbstractNet
from retrodict.nets._base import architecture_from_json as architecture_from_json
from retrodict.nets._mlp import ResMLP as ResMLP
