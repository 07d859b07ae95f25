"""Networks, all through one door.

An *architecture* is what a user writes, `ResMLP(width=256, depth=4)`; `build(layout, ...)` makes the network with its
weights. What does not change along a path is made once, and then

    (values (d,), roles (d,), time, prepared)  ->  prediction (d,)

for one example, with whatever it likes at tokens that are not latent. A network does not know what it is asked, nor
along which path it is trained.
"""

from retrodict.nets._base import AbstractArchitecture as AbstractArchitecture
from retrodict.nets._base import AbstractNet as AbstractNet
from retrodict.nets._base import architecture_from_json as architecture_from_json
from retrodict.nets._embeddings import AbstractEmbedding as AbstractEmbedding
from retrodict.nets._embeddings import CNN1d as CNN1d
from retrodict.nets._embeddings import CNN2d as CNN2d
from retrodict.nets._embeddings import SetEncoder as SetEncoder
from retrodict.nets._embeddings import Spectrogram as Spectrogram
from retrodict.nets._flux import Flux1 as Flux1
from retrodict.nets._flux import Flux1Joint as Flux1Joint
from retrodict.nets._identity import AbstractIdentity as AbstractIdentity
from retrodict.nets._identity import Learned as Learned
from retrodict.nets._identity import Rotary1d as Rotary1d
from retrodict.nets._identity import Rotary2d as Rotary2d
from retrodict.nets._identity import Sinusoidal1d as Sinusoidal1d
from retrodict.nets._identity import Sinusoidal2d as Sinusoidal2d
from retrodict.nets._mlp import ResMLP as ResMLP
from retrodict.nets._plate import PlateTransformer as PlateTransformer
from retrodict.nets._points import PointMLP as PointMLP
from retrodict.nets._simformer import Simformer as Simformer
from retrodict.nets._tokenizer import AbstractTransformer as AbstractTransformer
