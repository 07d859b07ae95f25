"""`rd.synthesis`, another name of `retrodict.training.synthetic_data`."""

import importlib
import sys


sys.modules[__name__] = importlib.import_module("retrodict.training.synthetic_data")
