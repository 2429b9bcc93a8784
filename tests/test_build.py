"""The build of the CUDA part: what it finds, leaves out, refuses and says (setup.py, csrc/nvcc.py).

A fake nvcc, a shell script, stands for releases and failures; one test needs a real one.
"""

import doctest
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from csrc import nvcc
from tests.release.archives import path_problems

ROOT = Path(__file__).parents[1]
MODULE = f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
OLD = ("12.4", "sm_50 sm_80 sm_86 sm_89 sm_90")  # release and --list-gpu-code: no sm_100
try:
    REAL = [nvcc.find_nvcc(os.environ)]
except nvcc.Unavailable:
    REAL = []


def fake(home: Path, release: str = OLD[0], codes: str = OLD[1]) -> Path:
    """A toolkit whose nvcc answers questions and fails to compile."""
    program = home / "bin" / "nvcc"
    program.parent.mkdir(parents=True)
    program.write_text(
        f"""#!/bin/sh
case "$*" in
*--version*) echo "Cuda compilation tools, release {release}, V{release}.1" ;;
*--list-gpu-code*) printf '%s\\n' {codes} ;;
*--dryrun*) echo '#$ LIBRARIES=  "-L{home}/here/stubs" "-L{home}/here"' >&2 ;;
*) echo 'kernels.cu(1): error: identifier "nothing" is undefined' >&2; exit 1 ;;
esac
"""
    )
    program.chmod(0o755)
    (home / "here").mkdir()
    (home / "here" / "libcudart_static.a").touch()
    return program


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """setup.py with a stub of csrc/cuda, and no nvcc but those of the environment."""
    pytest.importorskip("pybind11", reason="setup.py builds nothing without pybind11")
    folder = tmp_path / "a project"  # paths with spaces reach ninja, the shell and depfiles
    (folder / "csrc" / "cuda").mkdir(parents=True)
    (folder / "wssl_fast").mkdir()
    shutil.copy(ROOT / "setup.py", folder)
    text = (ROOT / "csrc" / "nvcc.py").read_text()
    (folder / "csrc" / "nvcc.py").write_text(text.replace(nvcc.LAST_PLACE, f"{tmp_path}/none"))
    sources = {
        "kernels.cuh": "template <int N> __global__ void scale(float* x) { *x *= N; }\n",
        "kernels.cu": '#include "kernels.cuh"\n'
        "const void* kernel() { return reinterpret_cast<const void*>(&scale<3>); }\n",
        "bindings.cpp": "#include <pybind11/pybind11.h>\nconst void* kernel();\n"
        'PYBIND11_MODULE(_cuda, m) { m.def("found", [] { return kernel() != nullptr; }); }\n',
    }
    for name, text in sources.items():
        (folder / "csrc" / "cuda" / name).write_text(text)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "stub"\nversion = "0"\n[tool.setuptools]\npackages = ["wssl_fast"]\n'
    )
    return folder


def build(folder: Path, path: Path | str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WSSL", "CUDA"))}
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=folder,
        env={**kept, "PATH": str(path), "WSSL_FAST_NATIVE": "0", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_doctests() -> None:
    assert doctest.testmod(nvcc).failed == 0


def test_nvcc_is_looked_for_in_order(tmp_path: Path) -> None:
    first, second, third, last = (fake(tmp_path / name) for name in ("a", "b", "c", "d"))
    environ = {
        "CUDA_HOME": f"{tmp_path}/a",
        "CUDA_PATH": f"{tmp_path}/b",
        "PATH": str(third.parent),
    }
    for expected, drop in ((first, "CUDA_HOME"), (second, "CUDA_PATH"), (third, "PATH")):
        assert nvcc.find_nvcc(environ, f"{tmp_path}/d") == expected
        del environ[drop]
    assert nvcc.find_nvcc(environ, f"{tmp_path}/d") == last
    with pytest.raises(nvcc.Unavailable, match="CUDA_HOME, CUDA_PATH, PATH"):
        nvcc.find_nvcc(environ, f"{tmp_path}/nowhere")


def test_link_to_nvcc_is_followed_and_one_to_a_cache_is_not(tmp_path: Path) -> None:
    real = fake(tmp_path / "cuda")
    links = tmp_path / "links"
    links.mkdir()
    link = links / "nvcc"
    link.symlink_to(real)
    assert nvcc.find_nvcc({"PATH": str(links)}, "") == real
    shutil.copy(real, links / "cache")
    link.unlink()
    link.symlink_to("cache")
    assert nvcc.find_nvcc({"PATH": str(links)}, "") == link


def test_toolkit_is_what_nvcc_says(tmp_path: Path) -> None:
    kit = nvcc.toolkit(fake(tmp_path / "cuda"))
    assert kit.release == "12.4"
    assert kit.listed == {"50", "80", "86", "89", "90"}
    assert kit.cudart == tmp_path / "cuda" / "here" / "libcudart_static.a"
    assert nvcc.architectures(kit.listed, nvcc.DEFAULT_ARCHITECTURES) == (("80", "90a"), ("100",))
    mute = tmp_path / "mute" / "nvcc"
    mute.parent.mkdir()
    mute.write_text("#!/bin/sh\n")
    mute.chmod(0o755)
    with pytest.raises(nvcc.Unavailable, match="no release"):
        nvcc.toolkit(mute)


@pytest.mark.parametrize("value", ["yes", "2", " 1"])
def test_setting_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"WSSL_FAST_CUDA is .*expected 0 .*, 1 .* or nothing"):
        nvcc.setting({"WSSL_FAST_CUDA": value})


@pytest.mark.parametrize("value", ["sm_80", "8.0", "80;90a", "80,,90a", "90b", "0"])
def test_architectures_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"WSSL_FAST_CUDA_ARCHS is .*such as 80,90a,100"):
        nvcc.wanted({"WSSL_FAST_CUDA_ARCHS": value})


def test_gencode_embeds_one_ptx() -> None:
    flags = " ".join(nvcc.gencode(nvcc.DEFAULT_ARCHITECTURES))
    assert re.findall(r"code=(\S+)", flags) == ["[sm_80,compute_80]", "sm_90a", "sm_100"]
    assert "code=[sm_100,compute_100]" in nvcc.gencode(["90a", "100"])[3]
    assert nvcc.gencode(["90a"]) == ["-gencode", "arch=compute_90a,code=sm_90a"]


def test_ninja_has_an_edge_per_source_for_every_architecture(tmp_path: Path) -> None:
    kit = nvcc.toolkit(fake(tmp_path / "cuda"))
    sources = [Path("csrc/cuda", name) for name in ("bindings.cpp", "gram.cu", "gram.cpp", "w2.cu")]
    text = nvcc.ninja_text(
        sources, Path("a folder"), Path("a folder/_cuda.so"), kit, ["80", "90a"], include=["/py $"]
    )
    edges = dict(re.findall(r"^build a\$ folder/(\S+): (.*)$", text, re.MULTILINE))
    assert {name: rest for name, rest in edges.items() if name != "_cuda.so"} == {
        "bindings.cpp.o": "cxx csrc/cuda/bindings.cpp",
        "gram.cu.o": "nvcc csrc/cuda/gram.cu",
        "gram.cpp.o": "cxx csrc/cuda/gram.cpp",
        "w2.cu.o": "nvcc csrc/cuda/w2.cu",
    }
    assert edges["_cuda.so"].endswith(f"w2.cu.o {kit.cudart}")
    command = re.search(r"^rule nvcc\n  command = (.*)$", text, re.MULTILINE)
    assert command is not None
    assert "'arch=compute_80,code=[sm_80,compute_80]'" in command[1]
    assert "arch=compute_90a,code=sm_90a" in command[1]
    assert "-Xptxas -v" in command[1]
    assert "'-isystem/py $$'" in text
    assert text.count("depfile = $out.d") == 2


def test_without_nvcc_a_line_says_what_that_costs(project: Path, tmp_path: Path) -> None:
    done = build(project, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("CUDA part not built: no nvcc in CUDA_HOME") == 1
    assert "Triton kernels do the same work" in done.stderr
    done = build(project, tmp_path, WSSL_FAST_CUDA="1")
    assert done.returncode != 0
    assert "no nvcc in CUDA_HOME" in done.stderr


def test_skipped_on_request(project: Path, tmp_path: Path) -> None:
    done = build(project, fake(tmp_path / "cuda").parent, WSSL_FAST_CUDA="0")
    assert done.returncode == 0, done.stderr
    assert "skipped (WSSL_FAST_CUDA=0)" in done.stderr
    assert "nvcc" not in done.stderr


@pytest.mark.parametrize("name", ["WSSL_FAST_CUDA", "WSSL_FAST_CUDA_ARCHS"])
def test_bad_setting_stops_the_build(project: Path, tmp_path: Path, name: str) -> None:
    done = build(project, tmp_path, **{name: "maybe"})
    assert done.returncode != 0
    assert f"ValueError: {name} is 'maybe'; expected" in done.stderr


def test_failure_is_told_and_the_rest_installed(project: Path, tmp_path: Path) -> None:
    pytest.importorskip("ninja")
    path = f"{fake(tmp_path / 'cuda').parent}:/usr/bin:/bin"
    stale = project / "wssl_fast" / MODULE
    stale.touch()
    done = build(project, path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"nvcc 12\.4 .*does not know sm_100: left out", done.stderr)
    assert "not built: FAILED: build" in done.stderr.replace("[code=1] ", "")
    assert 'identifier "nothing" is undefined' in done.stderr.split("not built")[1]
    assert "WSSL_FAST_CUDA=0 skips it" in done.stderr
    assert not stale.exists()  # or the module of another source would be imported
    assert f"removed wssl_fast/{MODULE}" in done.stderr
    done = build(project, path, WSSL_FAST_CUDA="1")
    assert done.returncode != 0
    assert 'identifier "nothing" is undefined' in done.stderr.split("Traceback")[1]


def test_what_is_skipped_does_not_come_from_an_earlier_build(project: Path, tmp_path: Path) -> None:
    """A wheel takes all of build/lib*."""
    kept = project / "kept" / "wssl_fast" / MODULE.replace("_cuda", "_cpu")
    kept.parent.mkdir(parents=True)
    (project / "setup.cfg").write_text("[build_ext]\nbuild_lib = kept\n")
    kept.touch()
    kept.with_name(MODULE).touch()
    done = build(project, fake(tmp_path / "cuda").parent)
    assert done.returncode == 0, done.stderr
    assert not list(kept.parent.iterdir())


def test_no_known_architecture_is_a_failure(project: Path, tmp_path: Path) -> None:
    path = fake(tmp_path / "cuda").parent
    done = build(project, path, WSSL_FAST_CUDA_ARCHS="100,120")
    assert done.returncode == 0, done.stderr
    assert "knows none of 100, 120" in done.stderr
    done = build(project, path, WSSL_FAST_CUDA_ARCHS="100,120", WSSL_FAST_CUDA="1")
    assert done.returncode != 0


@pytest.mark.skipif(not REAL, reason="needs nvcc")
def test_module_is_built_imported_without_a_gpu_and_rebuilt_where_changed(project: Path) -> None:
    pytest.importorskip("ninja")
    setting = {"WSSL_FAST_CUDA": "1", "WSSL_FAST_CUDA_ARCHS": "80"}
    path = f"{REAL[0].parent}:{os.environ['PATH']}"
    done = build(project, path, **setting)
    assert done.returncode == 0, done.stderr
    code = "import sys; sys.path.insert(0, 'wssl_fast'); import _cuda; print(_cuda.found())"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False
    )
    assert out.stdout.strip() == "True", out.stderr
    assert path_problems({MODULE: (project / "wssl_fast" / MODULE).read_bytes()}) == []
    report = (project / "build" / "cuda" / "ptxas" / "kernels.sm_80.txt").read_text()
    assert re.search(r"Compiling entry function '\w*scale\w*' for 'sm_80'", report)
    assert re.search(r"Used \d+ registers", report)
    assert "0 bytes spill stores" in report

    assert "no work to do" in build(project, path, **setting).stderr
    header = project / "csrc" / "cuda" / "kernels.cuh"
    header.write_text(header.read_text().replace("*= N", "+= N"))
    again = build(project, path, **setting).stderr
    assert "nvcc csrc/cuda/kernels.cu" in again
    assert "c++ csrc/cuda/bindings.cpp" not in again
