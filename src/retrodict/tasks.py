"""`rd.tasks`, another name of `retrodict_bench.tasks`: problems with known answers."""

import sys

import retrodict_bench.tasks
from retrodict_bench.tasks import get as get
from retrodict_bench.tasks import names as names


sys.modules[__name__] = retrodict_bench.tasks
