"""Registered operators `torch.ops.wssl_fast.*`: schema, fake, autograd, choice of backend."""
