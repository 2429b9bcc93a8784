"""PyTorch calls that run on any device, and the compiled passes of csrc/cpu where they exist.

Functions here take plain tensors and return plain tensors; they know nothing of autograd. On the
CPU they look at the data to choose a precision; on an accelerator the same looks synchronise.
"""
