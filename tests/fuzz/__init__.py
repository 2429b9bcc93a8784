"""A seeded fuzzer of the public functions: `python -m tests.fuzz --cases 20000 --seed 0`.

`cases.py` draws a case, `inputs.py` makes its tensors, `check.py` says what must hold of every
function and `oracles*.py` what holds of one, `streams.py` and `training.py` run programs of many
calls, `pool.py` runs cases in processes that may die, `report.py` sums up and records.
"""
