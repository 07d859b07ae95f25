"""The names under which settings of networks stand in model files.

A file says `{"name": "ResMLP", "width": 256, ...}`. A class may be renamed, its written name may not: files of earlier
versions use it.
"""

from collections.abc import Mapping
from typing import Any

from retrodict._errors import FileError
from retrodict.nets._base import AbstractArchitecture, AbstractSettings
from retrodict.nets._embeddings import CNN1d, CNN2d, SetEncoder, Spectrogram
from retrodict.nets._flux import Flux1, Flux1Joint
from retrodict.nets._identity import Learned, Rotary1d, Rotary2d, Sinusoidal1d, Sinusoidal2d
from retrodict.nets._mlp import ResMLP
from retrodict.nets._plate import PlateTransformer
from retrodict.nets._points import PointMLP
from retrodict.nets._simformer import Simformer
from retrodict.variables import as_tuples


WRITTEN_NAMES: dict[str, type[AbstractSettings]] = {
    "ResMLP": ResMLP,
    "PointMLP": PointMLP,
    "Simformer": Simformer,
    "Flux1": Flux1,
    "Flux1Joint": Flux1Joint,
    "PlateTransformer": PlateTransformer,
    "CNN1d": CNN1d,
    "CNN2d": CNN2d,
    "Spectrogram": Spectrogram,
    "SetEncoder": SetEncoder,
    "Learned": Learned,
    "Sinusoidal1d": Sinusoidal1d,
    "Sinusoidal2d": Sinusoidal2d,
    "Rotary1d": Rotary1d,
    "Rotary2d": Rotary2d,
}
for written_name, settings_class in WRITTEN_NAMES.items():
    settings_class.written_name = written_name


def architecture_from_json(content: Mapping[str, Any]) -> AbstractArchitecture:
    """Returns the architecture that `to_json` wrote.

    Raises:
        FileError: the name is none of this version's architectures.
    """
    architecture = _settings_of(content)
    if not isinstance(architecture, AbstractArchitecture):
        raise FileError(f"the file names the network '{content['name']}', which is none")
    return architecture


def _settings_of(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    settings = {key: as_tuples(setting, _settings_of) for key, setting in value.items()}
    name = settings.pop("name")
    settings_class = WRITTEN_NAMES.get(name) or AbstractSettings.by_class_name.get(name)
    if settings_class is None:
        raise FileError(f"the file names the network '{name}', which this version does not know")
    return settings_class(**settings)
