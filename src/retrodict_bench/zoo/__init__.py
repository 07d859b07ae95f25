"""The zoo: small problems of ordinary data with exact answers. Silent and wrong is the one failure.

`python -m retrodict_bench.zoo` runs it.
"""

from retrodict_bench.zoo._case import Case as Case
from retrodict_bench.zoo._run import FAILED_VERDICTS as FAILED_VERDICTS
from retrodict_bench.zoo._run import Outcome as Outcome
from retrodict_bench.zoo._run import run as run
from retrodict_bench.zoo._table import CASES as CASES
