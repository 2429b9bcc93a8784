"""`python -m benchmarks.accuracy`: how right each W2 is over the spectra, and what that costs."""
