"""The paper's theory and synthetic studies: `python -m benchmarks.paper`."""
