"""Runs a program that must not touch the network: `python offline.py FILE|-m MODULE [ARGUMENTS]`.

An audit hook sees every use of Python's sockets and stops the first that would look up a name,
connect, listen or send. What a C library does by itself, or another process, it does not see.
"""

import os
import runpy
import sys

FORBIDDEN = {
    f"socket.{name}"
    for name in (
        *("bind", "connect", "getaddrinfo", "gethostbyaddr", "gethostbyname", "getnameinfo"),
        *("sendmsg", "sendto"),
    )
}


def forbid() -> None:
    """For the rest of this process: an audit hook cannot be taken back."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in FORBIDDEN:
            raise RuntimeError(f"no network here: {event}{arguments}")

    sys.addaudithook(hook)


if __name__ == "__main__":
    forbid()
    program = sys.argv[2] if sys.argv[1] == "-m" else sys.argv[1]
    sys.argv = [program, *sys.argv[3 if sys.argv[1] == "-m" else 2 :]]
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        sys.path[0] = os.getcwd()  # as python -m does
        runpy.run_module(program, run_name="__main__", alter_sys=True)
