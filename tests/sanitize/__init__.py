"""csrc/ under sanitizers: `python -m tests.sanitize` (`make sanitize`).

`build.py` compiles, `preload.py` puts the result in the place of the module, `planted.py` has the
faults that must be found, `team.cpp` is an OpenMP that ThreadSanitizer understands.
"""
