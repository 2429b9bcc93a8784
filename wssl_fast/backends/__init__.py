"""Backends compute into given outputs and know nothing of autograd."""
