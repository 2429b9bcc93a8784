"""Kernels compiled ahead of time for every architecture, and what must hold of the result.

Which specialisations, in the words of benchmarks/gpu/compiled.py: `essential` ones for sm_90,
`usual` ones for the other architectures; WSSL_COMPILE=essential or all asks for more everywhere.
What was compiled is kept in build/triton.
"""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from benchmarks.gpu import machine_code, specimens
from benchmarks.gpu.machine_code import ARCHITECTURES, faults, promise
from wssl_fast.backends import triton as kernels
from wssl_fast.backends.triton.dispatch import Target

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]


def target(name: str) -> Target:
    return Target(name, ARCHITECTURES[name].programs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_without_spills(architecture: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.compiled", "--architecture", architecture]
    which = os.environ.get("WSSL_COMPILE", "tested")
    command += ["--rows", str(tmp_path), "--select", which]
    done = subprocess.run(  # Triton compiles in a process that does not interpret
        command,
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    path = tmp_path / f"{architecture}.jsonl"
    assert path.exists(), done.stderr[-2000:]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows
    wrong = {
        f"{row['module']}.{row['kernel']} {row['types']} {row['constants']}": faults(row)
        for row in rows
        if faults(row)
    }
    assert not wrong
    assert done.returncode == 0
    assert {row["kernel"] for row in rows} == names(architecture)


def names(architecture: str) -> set[str]:
    """Kernels that have a grid: by the house's names, those that end in _kernel."""
    found: set[str] = set()
    for path in Path(kernels.__path__[0]).glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel"):
                found.add(node.name)
    # the small root was tried on NVIDIA's alone; its problems go to the large one elsewhere
    return found - ({"newton_schulz_small_kernel"} if architecture.startswith("gfx") else set())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_row_of_the_table_is_used(architecture: str) -> None:
    rows = {row for row in specimens.rows() if row[0] == architecture}
    assert rows, "no rows for this architecture"
    unused = rows - specimens.rows_used(target(architecture))
    assert not unused


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_is_reached(architecture: str) -> None:
    reached = {launch.kernel.fn.__name__ for launch in specimens.launches(target(architecture))}
    assert reached == names(architecture)


BARRIER = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tests.triton.test_tiles import barrier_kernel
source = ASTSource(barrier_kernel, {"counter": "*i32", "out": "*i32", "rounds": "i32"}, {}, {})
print(triton.compile(source, target=GPUTarget("cuda", %d, 32)).asm["ptx"])
"""


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_a_grid_barrier_ends_with_an_acquire(architecture: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARRIER % architecture],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    arrival, _, after = done.stdout.partition("ld.volatile")
    assert re.search(r"bar\.sync.*atom\S*\.acq_rel", arrival, re.S)
    assert re.search(r"(ld|atom)\S*\.acq\S*.*bar\.sync", after, re.S)


def row(**changes: Any) -> Row:
    return {
        "architecture": "sm_90",
        "constants": {"MODE": "bf16x6", "TILE": 64},
        "registers": 100,
        "spills": 0,
        "stack": 0,
        "shared": 1024,
        "tensor": {"HGMMA": 4},
        "instructions": 500,
    } | changes


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        pytest.param({"error": "the compiler aborted"}, "aborted", id="error"),
        pytest.param({"spills": 2, "stack": 8}, "2 spill instructions", id="spills"),
        pytest.param({"shared": 228 * 1024}, "shared memory", id="shared memory"),
        pytest.param({"tensor": {"HMMA": 4}}, "HGMMA promised", id="slower instruction"),
        pytest.param({"tensor": {}}, "HGMMA promised, none found", id="no instruction"),
        pytest.param({"constants": {"MODE": "float64", "TILE": 64}}, "DMMA promised", id="float64"),
        pytest.param(
            {"constants": {"MODE": "float64_fma", "TILE": 64}}, "no tensor", id="float64_fma"
        ),
        pytest.param({"architecture": "gfx942"}, "v_mfma", id="AMD"),
    ],
)
def test_faults_are_found(changes: Row, what: str) -> None:
    assert any(what in fault for fault in faults(row(**changes)))


def test_a_good_kernel_has_none() -> None:
    assert faults(row()) == []
    small = row(constants={"MODE": "bf16x6", "TILE": 32}, tensor={"HMMA": 4})
    assert faults(small) == []
    assert "64 rows" in promise(small)[1]
    assert faults(row(constants={"MODE": "float64", "TILE": 32}, tensor={"DMMA": 4})) == []


def test_amd_assembly_is_read() -> None:
    text = """
    .amdhsa_next_free_vgpr 90
        s_load_dwordx2 s[0:1], s[2:3], 0x0
        v_mfma_f32_32x32x8_f16 v[0:15], v[1:2], v[3:4], v[0:15]
        v_mfma_f32_32x32x8_f16 v[0:15], v[1:2], v[3:4], v[0:15]
    .private_segment_fixed_size: 16
    .vgpr_count:     90
    .vgpr_spill_count: 3
    """
    assert machine_code.of_amdgcn(text) == {
        "registers": 90,
        "spills": 3,
        "stack": 16,
        "tensor": {"v_mfma_f32_32x32x8_f16": 2},
        "instructions": 3,
    }
