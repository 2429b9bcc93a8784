"""A check for the pool to survive."""

import os
import time


def check(line: str) -> tuple[list[str], dict[str, float]]:
    if line == "dies":
        os.abort()
    if line == "leaves":
        os._exit(3)
    if line == "hangs":
        time.sleep(600)
    if line == "raises":
        raise RuntimeError("on purpose")
    return ([], {"value": 0.5}) if line == "good" else (["bad"], {})
