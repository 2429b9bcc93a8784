"""What a compiler made of a kernel, read from its machine code, and what must hold of it.

registers      of a thread
spills         instructions that touch local memory (LDL, STL), or spilled vector registers
stack          bytes of local memory of a thread
tensor         matrix instructions in the text, by kind: HMMA, HGMMA, DMMA, UTCHMMA, v_mfma_*
instructions   in the text
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Row = dict[str, Any]

TENSOR = re.compile(r"[A-Z0-9]*MMA")
_SASS = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.M)
_MFMA = re.compile(r"\b(v_s?mfma_\w+)")


@dataclass(frozen=True)
class Architecture:
    """A target that the kernels are compiled for, and what its hardware allows."""

    name: str
    backend: str
    arch: int | str
    warp: int
    programs: int
    """Multiprocessors of its largest device: what a persistent launch is planned for."""
    shared: int
    """Bytes of shared memory that one program may have."""


ARCHITECTURES = {
    a.name: a
    for a in (
        Architecture("sm_80", "cuda", 80, 32, 108, 163 * 1024),
        Architecture("sm_90", "cuda", 90, 32, 132, 227 * 1024),
        Architecture("sm_100", "cuda", 100, 32, 148, 227 * 1024),
        Architecture("gfx942", "hip", "gfx942", 64, 304, 64 * 1024),
    )
}


def of_cubin(cubin: bytes) -> dict[str, Any]:
    """Counts from NVIDIA's disassembler, which comes with Triton."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(_tools() / "cuobjdump"), "-sass", "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = Counter(name.split(".")[0] for name in _SASS.findall(text))
    if not names:
        raise RuntimeError("cuobjdump printed no instruction")
    usage = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    return {
        "registers": usage["REG"],
        "spills": names["LDL"] + names["STL"],
        "stack": usage["STACK"] + usage["LOCAL"],
        "tensor": {name: count for name, count in names.items() if TENSOR.fullmatch(name)},
        "instructions": names.total(),
    }


def of_amdgcn(text: str) -> dict[str, Any]:
    """Counts from the assembly and its metadata. Scalar registers kept in vector lanes are free."""

    def figure(pattern: str) -> int:
        found = re.search(pattern + r"\s*(\d+)", text)
        return int(found[1]) if found else 0

    lines = (line.strip() for line in text.splitlines())
    code = [line for line in lines if re.match(r"[a-z]+_[a-z]", line)]
    return {
        "registers": figure(r"\.vgpr_count:"),
        "spills": figure(r"\.vgpr_spill_count:"),
        "stack": figure(r"\.private_segment_fixed_size:"),
        "tensor": dict(Counter(m[1] for line in code if (m := _MFMA.match(line)))),
        "instructions": len(code),
    }


@cache
def _tools() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


# What must hold


def promise(row: Row) -> tuple[str, str]:
    """The tensor instruction that a row's MODE promises ("" for none), and why a lesser one."""
    constants, architecture = row["constants"], row["architecture"]
    mode = constants.get("MODE", "")
    if mode in ("", "float64_fma") or constants.get("PART", "all") not in (
        "all",
        "products",
        "sums",
    ):
        return "", ""
    if architecture == "gfx942":
        return ("v_mfma_f64" if mode == "float64" else "v_mfma_f32"), ""
    if mode == "float64":
        return "DMMA", ""
    if architecture == "sm_80":
        return "HMMA", ""
    if constants["TILE"] < 64:
        return "HMMA", f"tile of {constants['TILE']}: an instruction of a warp group takes 64 rows"
    return ("HGMMA" if architecture == "sm_90" else "UTCHMMA"), ""


def faults(row: Row) -> list[str]:
    """What is wrong with a compiled specialisation; empty for a good one."""
    if "error" in row:
        return [row["error"]]
    found = []
    if row["spills"] or row["stack"]:
        found.append(f"{row['spills']} spill instructions, {row['stack']} bytes of stack")
    limit = ARCHITECTURES[row["architecture"]].shared
    if row["shared"] > limit:
        found.append(f"{row['shared']} bytes of shared memory, {limit} allowed")
    wanted, _ = promise(row)
    kinds = sorted(row["tensor"])
    if wanted and not any(kind.startswith(wanted) for kind in kinds):
        found.append(f"{wanted} promised, {' '.join(kinds) or 'none'} found")
    if row["constants"].get("MODE") == "float64_fma" and kinds:
        found.append(f"no tensor instruction expected, {' '.join(kinds)} found")
    return found
