"""Imported first (`pytest -p tests.sanitize.preload`): the sanitized module stands for
wssl_fast._cpu, or the process ends."""

import importlib.util
import os
import sys
from pathlib import Path

import torch  # noqa: F401  (first: see backends/native.py)

from tests.sanitize.build import MODULE_VARIABLE

NAME = "wssl_fast._cpu"
path = Path(os.environ[MODULE_VARIABLE])
spec = importlib.util.spec_from_file_location(NAME, path)
assert spec is not None
assert spec.loader is not None
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert NAME not in sys.modules, "the installed module was there first"
sys.modules[NAME] = module

from wssl_fast.backends import native  # noqa: E402

assert native._module is module, "another module is used"
assert native._module.__file__ == str(path)
