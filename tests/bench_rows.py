"""Made-up rows of every kind, as the suites record them; the figures in them mean nothing."""

import math
from typing import Any

from benchmarks import scaling
from benchmarks.peers import FRECHET, ROOTS, SSL_LOSSES, W2_FORMS
from benchmarks.suites.core import OURS

COMMIT = "0123456789ab"


def row(**fields: Any) -> dict[str, Any]:
    """A row of a group with what is given in place of its defaults."""
    return {
        "group": "W2",
        "shape": [512, 8192],
        "dtype": "float32",
        "device": "cpu",
        "mode": "forward+backward",
        "provider": OURS,
        "rounds": 20,
        "wrong": None,
        "skipped": None,
        "peak_bytes": None,
        "p20_ms": 9.0,
        "p50_ms": 10.0,
        "p80_ms": 11.0,
        "floor_ms": 5.0,
        "time_over_floor": 2.0,
        "commit": COMMIT,
    } | fields


def scaling_rows() -> list[dict[str, Any]]:
    """Ours ~ size^0.8, peers steeper and steeper; the paper's form wrong, and stopped at 3 s."""
    found = []
    exponents = {name: 1 + 0.15 * i for i, name in enumerate((*W2_FORMS, *SSL_LOSSES))}
    exponents = {OURS: 0.8, **exponents, "paper's eigh": 2.9, "eigvalsh": 2.5}
    for axis in scaling.AXES:
        for name, exponent in exponents.items():
            for size in axis.sizes:
                ms = 5.0 * (size / axis.sizes[0]) ** exponent
                slow = ms > 1e3 * scaling.LIMIT
                wrong = "gradient not finite" if name == "paper's eigh" else None
                found.append(
                    row(
                        group=axis.name,
                        shape=list(axis.shape(size)),
                        provider=name,
                        p50_ms=None if slow else ms,
                        skipped="foreseen to take over 9 s" if slow else None,
                        wrong=None if slow else wrong,
                    )
                )
    return found


def group_rows() -> list[dict[str, Any]]:
    """A case of every family; the second peer wrong, the third skipped."""
    cases = (
        ("W2", [512, 8192], "forward+backward", (*W2_FORMS, *SSL_LOSSES)),
        ("W2", [4096, 1024], "forward", (*W2_FORMS, *SSL_LOSSES)),
        ("solver", [512, 512], "forward", tuple(ROOTS)),
        ("Gram", [512, 8192], "forward", ("torch.mm",)),
        ("L_U", [4096, 1024], "forward+backward", ("L_U, pdist",)),
        ("Frechet", [2048, 512], "forward", tuple(FRECHET)),
    )
    found = []
    for group, shape, mode, peers in cases:
        names = dict.fromkeys((OURS, *peers) if group != "solver" else peers)
        for i, name in enumerate(names):
            reason = {"wrong": "off by 1"} if i == 2 else {"skipped": "too slow"} if i == 3 else {}
            timed = {"p50_ms": 5.5 * 1.6**i, "time_over_floor": 1.1 * 1.6**i}
            if reason:
                timed = dict.fromkeys(timed)
            found.append(row(group=group, shape=shape, mode=mode, provider=name, **timed, **reason))
    return found


def accuracy_rows() -> list[dict[str, Any]]:
    """Two formulations; errors that grow down the list, the paper's form NaN on one spectrum."""
    found = []
    ours = [OURS, *(f"{OURS}, {p}, {s}" for p in ("double", "highest") for s in ("eigh", "ns"))]
    for formulation, shape in (("n < m", [256, 512]), ("n > m", [512, 256])):
        for i, name in enumerate((*ours, *W2_FORMS)):
            spectra: dict[str, Any] = {
                f"spectrum {j}": {"gradient": {"0.01": 1e-5, "3e-05": 10.0 ** (i / 2 - 6 + j / 2)}}
                for j in range(3)
            }
            if name == "paper's eigh":
                spectra["flat"] = {"gradient": None, "failure": "gradient is not finite"}
            found.append(
                row(
                    group="accuracy",
                    formulation=formulation,
                    shape=shape,
                    provider=name,
                    spectra=spectra,
                    healthy_ms=4 * math.exp(i / 4),
                )
            )
    return found


def step_rows() -> list[dict[str, Any]]:
    """Five cells of four arms; one overhead below 0, the slow form not run at the large ones."""
    found = []
    cells = [("Barlow Twins", d) for d in (256, 2048, 8192)] + [("VICReg", 2048), ("BYOL", 2048)]
    for method, dim in cells:
        for arm, overhead in (("none", None), (OURS, 0.02), ("eigvalsh", 0.4), ("paper's eigh", 3)):
            slow = arm == "paper's eigh" and dim > 2048
            found.append(
                row(
                    group="step",
                    method=method,
                    dim=dim,
                    batch=256,
                    arm=arm,
                    overhead=None if slow or arm == "none" else overhead - 0.03 * (dim == 256),
                    skipped="foreseen to take 90 s" if slow else None,
                )
            )
    return found


def every_row() -> list[dict[str, Any]]:
    """All of the above, and memory."""
    memory = row(group="memory", shape=[512, 32768], p50_ms=None, peak_bytes=4 * 5 * 512**2)
    return [*group_rows(), memory, *scaling_rows(), *accuracy_rows(), *step_rows()]
