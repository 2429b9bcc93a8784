"""The kernel through nvcc for every architecture: registers, spills, barriers, tensor instructions.

No GPU is needed. docs/cuda.md has the table; its rows are in benchmarks/results/compiled.
"""

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.gpu import cuda_kernel
from benchmarks.gpu.cuda_kernel import ARCHITECTURES, DOCS, RESULTS, ROOT, Row, faults
from benchmarks.gpu.rows import read

sys.path.insert(0, str(ROOT / "csrc"))
import nvcc as build


@pytest.fixture(scope="module")
def compiler() -> Path:
    try:
        found = build.find_nvcc(os.environ)
    except build.Unavailable as why:
        pytest.skip(str(why))
    if find_spec("triton") is None:
        pytest.skip("the disassembler comes with Triton")
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", cuda_kernel.tiles(), ids=lambda path: path.stem)
@pytest.mark.usefixtures("planning")
def test_every_instance_compiles_for_every_architecture(
    compiler: Path, source: Path, architecture: str
) -> None:
    kit = build.toolkit(compiler)
    if not build.architectures(kit.listed, [architecture])[0]:
        pytest.skip(f"nvcc {kit.release} does not know sm_{architecture}")
    assert faults(cuda_kernel.compile_tile(compiler, source, architecture)) == []


GOOD: Row = {
    "kernel": "tile_64x64",
    "architecture": "sm_80",
    "registers": 200,
    "spills": 0,
    "stack": 0,
    "barriers": 1,
    "shared": 98368,
    "tensor": {"HMMA": 48},
}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"spills": 8}, "8 bytes spilled"),
        ({"registers": 257}, "257 registers"),
        ({"barriers": 2}, "2 barriers"),
        ({"shared": 163 * 1024 + 1}, "166913 bytes of shared memory, 166912 allowed"),
        ({"tensor": {}}, "tensor instructions: {}"),
    ],
)
def test_faults_are_seen(bad: Row, said: str) -> None:
    assert faults(GOOD) == []
    assert any(said in fault for fault in faults(GOOD | bad))


def test_the_committed_rows_are_of_these_instances_and_faultless() -> None:
    rows = read(RESULTS)
    names = {(row["kernel"], row["architecture"]) for row in rows}
    stems = [source.stem for source in cuda_kernel.tiles()]
    assert names == {(stem, f"sm_{name}") for stem in stems for name in ARCHITECTURES}
    assert not [fault for row in rows for fault in faults(dict(row))]
    assert cuda_kernel.compiled_table([dict(row) for row in rows]) in DOCS.read_text()


@pytest.mark.usefixtures("planning")
def test_the_models_table_is_of_this_schedule() -> None:
    assert cuda_kernel.model_table() in DOCS.read_text()


def test_every_file_opens_with_what_it_is() -> None:
    for path in (ROOT / "csrc" / "cuda").iterdir():
        if not path.stem.startswith("tile_"):
            assert re.match(r"// [A-Z]", path.read_text()), path
