"""`python -m benchmarks.demo`: the loss against the truth, its peers, and in a training run."""
