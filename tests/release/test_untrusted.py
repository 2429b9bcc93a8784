"""Files from strangers: nothing in the repository unpickles or evaluates what it reads.

A rule over the sources, and files that would run a program if something unpickled them.
"""

import ast
import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.ssl.checkpoint import CheckpointError, read
from tests.release.archives import ROOT
from wssl_fast import cli
from wssl_fast.cli.readers import FORMATS
from wssl_fast.metrics import Moments

SOURCES = sorted(
    path
    for folder in ("wssl_fast", "benchmarks", "examples", "csrc")
    for path in (ROOT / folder).rglob("*.py")
)
UNPICKLERS = {
    *("cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve"),
    *("torch.hub", "torch.package", "yaml"),
}
EVALUATORS = {"__import__", "compile", "eval", "exec", "execfile"}
SHELLS = {"os.popen", "os.system", "subprocess.getoutput", "subprocess.getstatusoutput"}
LOADERS = {"jit.load", "torch.jit.load", "pandas.read_pickle", "pd.read_pickle"}


def faults(source: str) -> Iterator[str]:
    """Lines that unpickle, evaluate text or pass it to a shell."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call):
            names = [f"{ast.unparse(node.func)}()"]
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if names == ["torch.load()"] and given.get("weights_only") != "True":
                yield f"{node.lineno}: torch.load without weights_only=True"
            if given.get("allow_pickle", "False") != "False":
                yield f"{node.lineno}: allow_pickle"
            if given.get("shell", "False") != "False":
                yield f"{node.lineno}: shell"
        else:
            continue
        for name in names:
            name, called = name.removesuffix("()"), name.endswith("()")
            if called and name in EVALUATORS | SHELLS | LOADERS:
                yield f"{node.lineno}: {name}"
            imported = not called and name != "pickle.UnpicklingError"  # an error to catch
            roots = {name, name.split(".")[0], ".".join(name.split(".")[:2])}
            if imported and roots & UNPICKLERS:
                yield f"{node.lineno}: {name}"
            if imported and name in {"torch.load", "numpy.load"} | SHELLS:
                yield f"{node.lineno}: {name} under a name of its own"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sources_unpickle_and_evaluate_nothing(path: Path) -> None:
    assert list(faults(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from pickle import loads", "import yaml", "import torch.hub"),
        *("torch.load(path)", "torch.load(path, weights_only=False)", "from torch import load"),
        *("np.load(path, allow_pickle=True)", "np.load(path, allow_pickle=flag)"),
        *("eval(text)", "exec(text)", "os.system(text)", "subprocess.run(text, shell=True)"),
    ],
)
def test_the_rule_sees(line: str) -> None:
    assert len(list(faults(line))) == 1


@pytest.mark.parametrize(
    "line",
    [
        *("from pickle import UnpicklingError", "network.eval()", "re.compile(text)"),
        *("torch.load(path, weights_only=True)", "np.load(path)", "json.loads(text)"),
    ],
)
def test_the_rule_lets_pass(line: str) -> None:
    assert list(faults(line)) == []


class Payload:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[Payload]:
    mark = tmp_path / "mark"
    yield Payload(mark)
    assert not mark.exists()


def test_the_payload_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def objects(payload: Payload) -> np.ndarray:
    array = np.empty((2, 2), object)
    array[:] = payload
    return array


def saved_npy(payload: Payload) -> bytes:
    file = io.BytesIO()
    np.save(file, objects(payload), allow_pickle=True)
    return file.getvalue()


def saved_npz(payload: Payload) -> bytes:
    file = io.BytesIO()
    np.savez(file, embeddings=objects(payload))
    return file.getvalue()


def saved_by_torch(payload: Payload) -> bytes:
    file = io.BytesIO()
    torch.save({"embeddings": torch.ones(4, 2), "more": payload}, file)
    return file.getvalue()


WRITERS = {
    "object npy": saved_npy,
    "object npz": saved_npz,
    "torch.save": saved_by_torch,
    "pickle": pickle.dumps,
    "nothing": lambda payload: b"",
}


@pytest.mark.parametrize("suffix", [*FORMATS, ".pt", ".pkl"])
@pytest.mark.parametrize("kind", WRITERS)
def test_inspect_refuses(kind: str, suffix: str, payload: Payload, tmp_path: Path) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(WRITERS[kind](payload))
    result = CliRunner().invoke(cli.app, ["inspect", str(path)], env={"COLUMNS": "500"})
    assert result.exit_code == 3, result.output
    assert str(path) in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("kind", WRITERS)
def test_saved_moments_are_no_pickle(kind: str, payload: Payload, tmp_path: Path) -> None:
    path = tmp_path / "moments.safetensors"
    path.write_bytes(WRITERS[kind](payload))
    with pytest.raises(ValueError, match="is not a whole safetensors file") as error:
        Moments.load(path)
    assert str(path) in str(error.value)


def checkpoint(path: Path, body: bytes, **header: object) -> Path:
    """With a first line that fits its body, as anyone can write one."""
    found = {"format": 1, "epoch": 1, "step": 0, "length": len(body)}
    found["sha256"] = hashlib.sha256(body).hexdigest()
    path.write_bytes(json.dumps(found | header).encode() + b"\n" + body)
    return path


@pytest.mark.parametrize("kind", WRITERS)
def test_checkpoints_hold_tensors_and_plain_values(
    kind: str, payload: Payload, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path / "checkpoint.pt", WRITERS[kind](payload))
    with pytest.raises(CheckpointError, match=r"refused|cannot be loaded") as error:
        read(path, torch.device("cpu"))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("header", [{"length": "9"}, {"epoch": "last"}, {"step": None}])
def test_first_line_of_a_checkpoint_holds_numbers(
    header: dict[str, object], tmp_path: Path
) -> None:
    path = checkpoint(tmp_path / "checkpoint.pt", b"", **header)
    with pytest.raises(CheckpointError, match="not a checkpoint of this program"):
        read(path, torch.device("cpu"))
