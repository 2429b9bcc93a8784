"""The guard that every operator runs under: arithmetic by its own `precision`, not by the caller's
global settings."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# PyTorch 2.9's settings by backend. Where a caller uses them, the older reading raises.
_KEYS = (("mkldnn", "matmul"), ("cuda", "matmul"))
_FULL = {1: ("highest",), 2: ("ieee", "ieee")}


def _setting() -> tuple[str, ...]:
    """How the process multiplies float32: its one word, or one for each of `_KEYS`."""
    try:
        return (torch.get_float32_matmul_precision(),)
    except RuntimeError:
        return _by_key()


def _by_key() -> tuple[str, ...]:
    return tuple(torch._C._get_fp32_precision_getter(*key) for key in _KEYS)


def _set(setting: tuple[str, ...]) -> None:
    if len(setting) == 1:
        torch.set_float32_matmul_precision(setting[0])
        return
    for (backend, op), value in zip(_KEYS, setting, strict=True):
        # what was read may be the backend's own, inherited: it goes on being inherited
        parent = torch._C._get_fp32_precision_getter(backend, "all")
        torch._C._set_fp32_precision_setter(backend, op, "none" if value == parent else value)


class _Float32Products:
    """float32 products are float32 while any thread is inside.

    PyTorch has one setting for all threads. The first one in raises it and the last one out puts it
    back: whoever leaves must not lower the products of those still at work. What the caller sets
    meanwhile stays. An interrupt (Ctrl-C) anywhere leaves a state from which `leave` puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: set[object] = set()
        self._found: tuple[str, ...] | None = None

    def enter(self, token: object) -> None:
        with self._lock:
            self._inside.add(token)
            if self._found is None:
                self._found = _setting()
                if self._lowered():
                    _set(_FULL[len(self._found)])

    def leave(self, token: object) -> None:
        """Twice is as good as once."""
        with self._lock:
            self._inside.discard(token)
            if not self._inside:
                self._put_back()

    def forked(self) -> None:
        """In a new process: the threads that were inside, and one that held the lock, are not."""
        self._lock = threading.Lock()
        self._inside.clear()
        self._put_back()

    def _lowered(self) -> bool:
        return self._found is not None and not {"highest", "ieee", "none"}.issuperset(self._found)

    def _put_back(self) -> None:
        if self._found is not None and self._lowered():
            now = _setting() if len(self._found) == 1 else _by_key()
            if len(now) == len(self._found):
                full = _FULL[len(now)]
                each = zip(self._found, now, full, strict=True)
                _set(tuple(old if here == ours else here for old, here, ours in each))
        self._found = None


_products = _Float32Products()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_products.forked)


@contextmanager
def plain_arithmetic(device_type: str) -> Iterator[None]:
    """Autocast is off and float32 products are float32."""
    token = object()
    try:
        _products.enter(token)
        if torch.is_autocast_enabled(device_type):
            with torch.autocast(device_type, enabled=False):
                yield
        else:
            yield
    finally:
        try:
            _products.leave(token)
        except BaseException:  # an interrupt at its door
            _products.leave(token)
            raise
