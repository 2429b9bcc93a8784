"""Faults on purpose: python -m tests.sanitize.planted NAME must not end well.

Each calls the compiled module past the checks of backends/native.py.
"""

import importlib
import sys
import threading

import torch

if __name__ == "__main__":
    importlib.import_module("tests.sanitize.preload")
from wssl_fast.backends import native

X = torch.ones(40, 3)


def row_pass(address: int, rows: int = 40, mean: int | None = None) -> None:
    inv, own_mean = torch.empty(40, dtype=torch.float64), torch.empty(3, dtype=torch.float64)
    target = own_mean.data_ptr() if mean is None else mean
    native._load().row_pass(address, 0, rows, 3, 3, 1, inv.data_ptr(), target, 1, "")


def read() -> None:
    """Rows that are not there. The norms are written past their end too: one row more of them."""
    inv, mean = torch.empty(80, dtype=torch.float64), torch.empty(3, dtype=torch.float64)
    address = X.data_ptr()
    native._load().row_pass(address, 0, 41, 3, 3, 1, inv.data_ptr(), mean.data_ptr(), 1, "")


def write() -> None:
    short = torch.empty(2, dtype=torch.float64)
    row_pass(X.data_ptr(), mean=short.data_ptr())


def misaligned() -> None:
    row_pass(X.data_ptr() + 1, rows=39)


def race() -> None:
    """Two threads write the same output."""
    x = torch.randn(400, 300)
    out = torch.empty(400, 400)

    def call() -> None:
        for _ in range(20):
            native.symmetric_product(x, out=out)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


FAULTS = {
    "read": "heap-buffer-overflow",
    "write": "heap-buffer-overflow",
    "misaligned": "misaligned address",
    "race": "data race",
}
"""What the sanitizer's report says of each."""

if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("nothing was noticed")
