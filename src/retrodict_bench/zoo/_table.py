"""The table of all cases, by name."""

from retrodict_bench.zoo._accidents import ACCIDENTS
from retrodict_bench.zoo._case import Case
from retrodict_bench.zoo._laws import LAWS
from retrodict_bench.zoo._plain import PLAINS
from retrodict_bench.zoo._scales import DECADES, OFFSETS, SCALES
from retrodict_bench.zoo._several import SEVERAL
from retrodict_bench.zoo._sites import SITE_CASES


_SINGLE = [*OFFSETS, *SCALES, *DECADES, *LAWS, *SEVERAL, *ACCIDENTS, *SITE_CASES]
_DOUBLE = ("unix_times", "narrow_four", "no_information_of_three", "mixed_units_joint", "truncated_normal", "sites")
X64 = [case.named(f"{case.name}_x64", kind="x64", x64=True) for case in _SINGLE if case.name in _DOUBLE]
CASES: dict[str, Case] = {case.name: case for case in (*_SINGLE, *X64, *PLAINS)}
