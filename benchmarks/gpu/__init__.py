"""GPU kernels: what the compilers make of them, what they should cost, what they cost."""
