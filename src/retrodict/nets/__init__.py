"""Networks behind one interface.

An *architecture* is a set of plain settings, such as `ResMLP(width=256, depth=4)`; its `build(layout, ...)` makes a
network with weights. `net.prepare(z, roles)` computes the constants of a path once, and then the network maps

    (values (d,), roles (d,), time, prepared)  ->  prediction (d,)

for one example. Its prediction counts at latent tokens only. A network knows neither the query nor the path on which it
is trained: roles and time are inputs.
"""

from retrodict.nets._base import AbstractArchitecture as AbstractArchitecture
from retrodict.nets._base import AbstractNet as AbstractNet
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
from retrodict.nets._written_names import architecture_from_json as architecture_from_json
