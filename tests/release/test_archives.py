"""What is built from a clean tree, installed, used from another folder and taken away again.

Here without a compiler, with the dependencies of the environment that runs this;
`python -m tests.release` does it with one, in environments of their own.
"""

import base64
import hashlib
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

import wssl_fast
from tests.release import archives
from tests.release.environments import Environment, call

pytestmark = pytest.mark.xdist_group("archives")  # built once
PURE = {"WSSL_FAST_NATIVE": "0", "WSSL_FAST_CUDA": "0"}


MODULE = f"_cpu{sysconfig.get_config_var('EXT_SUFFIX')}"
NO_COMPILER = {"PATH": "/nonexistent", "WSSL_FAST_CUDA": "0"}


@dataclass
class Built:
    folder: Path
    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("release")
    tree = archives.clean_tree(folder / "tree")
    sdist, _ = archives.build("sdist", tree, folder / "sdist", **PURE)
    wheel, _ = archives.build("wheel", tree, folder / "wheel", **PURE)
    return Built(folder, sdist, wheel)


def test_source_distribution_holds_what_builds_the_wheel(built: Built) -> None:
    assert archives.sdist_problems(built.sdist) == []


def test_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    assert built.wheel.name == f"{archives.STEM}-py3-none-any.whl"
    files = archives.members(built.wheel)
    assert archives.wheel_problems(files, set(), built.folder) == []


def test_wheel_of_the_source_distribution_is_the_same(built: Built) -> None:
    tree = archives.unpack(built.sdist, built.folder / "unpacked")
    again, _ = archives.build("wheel", tree, built.folder / "again", **PURE)
    assert again.name == built.wheel.name
    assert archives.members(again) == archives.members(built.wheel)


def test_without_a_compiler_the_build_says_so_and_goes_on(built: Built, tmp_path: Path) -> None:
    tree = archives.clean_tree(tmp_path / "tree")
    wheel, said = archives.build("wheel", tree, tmp_path / "wheel", **NO_COMPILER)
    files = archives.members(wheel)
    assert archives.wheel_problems(files, set(), built.folder, tmp_path) == []
    assert "compiled part not built: " in said
    assert "apt install g++" in said
    with pytest.raises(RuntimeError, match="no wheel of"):
        archives.build("wheel", tree, tmp_path, WSSL_FAST_NATIVE="1", **NO_COMPILER)


def test_a_build_that_fails_leaves_no_earlier_module(tmp_path: Path) -> None:
    """It would be of other sources: in the wheel, and where an editable install imports from."""
    tree = archives.clean_tree(tmp_path / "tree")
    (tree / "setup.cfg").write_text("[build_ext]\nbuild_lib = kept\n")
    kept, imported = (tree / folder / "wssl_fast" / MODULE for folder in ("kept", "."))
    for module in (kept, imported):
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_bytes(b"of an earlier build")
        os.utime(module, (0, 0))  # older than the sources: it is built anew
    said = call(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], tree, **NO_COMPILER
    )
    assert "compiled part not built: " in said
    assert f"removed wssl_fast/{MODULE}, of an earlier build" in said
    assert [module for module in (kept, imported) if module.exists()] == []


def test_installed_used_and_removed(built: Built) -> None:
    """pip's check, every module's examples, the command; without a network in use."""
    environment = Environment(built.folder / "environment")
    environment.borrow()
    before = environment.files()
    environment.pip("install", "--quiet", "--no-index", "--no-deps", str(built.wheel))
    assert "No broken requirements" in environment.pip("check")
    assert "examples" in environment.smoke("--pure", folder=built.folder / "elsewhere")
    assert "compiler" in environment.run("wssl-fast", "doctor", COLUMNS="200")
    environment.pip("uninstall", "--quiet", "--yes", "wssl-fast")
    assert environment.files() == before


def test_compiled_modules_of_this_environment_name_no_folder() -> None:
    """Those that the installed package uses, where there are any."""
    found = Path(wssl_fast.__file__).parent.glob("_c*.so")
    files = {path.name: path.read_bytes() for path in found}
    assert archives.path_problems(files) == []


def test_checks_see_what_is_wrong(built: Built) -> None:
    """A file too many, one too few, one changed after RECORD was written, a folder's name."""
    files = archives.members(built.wheel)
    files["tests/zoo.py"] = b""
    del files["wssl_fast/py.typed"]
    files["wssl_fast/nn.py"] += b"#"
    files["wssl_fast/_cpu.abi3.so"] = f"{sys.base_prefix}/lib\0".encode()
    problems = "\n".join(archives.wheel_problems(files, set()))
    for expected in (
        "tests/zoo.py does not belong there",
        "wssl_fast/py.typed is missing",
        "RECORD and files differ in wssl_fast/py.typed",
        "of wssl_fast/nn.py",
        "compiled modules: ['_cpu'], expected []",
    ):
        assert expected in problems
    prefix = archives.path_problems({"a.so": str(built.folder / "x.cpp").encode()}, built.folder)
    assert len(prefix) > 0


def test_record_is_read_as_pip_writes_it() -> None:
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"x").digest()).decode().rstrip("=")
    record = f"a,sha256={digest},1\nr,,\n".encode()
    assert archives.record_problems({"a": b"x", "r": record}, "r") == []
    assert len(archives.record_problems({"a": b"y", "r": record}, "r")) == 1
