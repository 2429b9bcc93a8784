"""Build of the optional compiled parts (csrc/); metadata is in pyproject.toml.

wssl_fast._cpu: WSSL_FAST_NATIVE=0 skips it, =1 turns a failure to build it into an error. Unset, a
machine without a working C++ compiler gets the pure PyTorch package and a message that says so.

WSSL_FAST_SANITIZE=address,undefined compiles those sanitizers in (tests/sanitize).

wssl_fast._cuda: WSSL_FAST_CUDA says the same of the CUDA kernels, built where nvcc is found;
WSSL_FAST_CUDA_ARCHS names the architectures (80,90a,100).
"""

import os
import platform
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

# An isolated build does not look beside setup.py.
sys.path.insert(0, str(Path(__file__).resolve().parent / "csrc"))
import nvcc

SETTING = os.environ.get("WSSL_FAST_NATIVE", "")
COST = (
    "wssl_fast works without it, through PyTorch calls: the symmetric products then cost a full "
    "GEMM and the row-wise passes several sweeps over memory. `wssl-fast doctor` says what is used."
)
CUDA = "wssl_fast._cuda"
CUDA_SETTING = nvcc.setting(os.environ)
CUDA_ARCHITECTURES = nvcc.wanted(os.environ)
CUDA_SOURCES = sorted(
    path for kind in ("*.cpp", "*.cu") for path in Path("csrc", "cuda").glob(kind)
)
CUDA_COST = "wssl_fast works without it: the Triton kernels do the same work."
# Only x86-64 has instruction sets to choose from at run time; elsewhere the baseline file builds
# 16-byte vectors (NEON) and the others are empty.
ISA_FLAGS = {
    "isa_avx2": ["-mavx2", "-mfma"],
    "isa_avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
        "-mprefer-vector-width=512",
    ],
}
# Rounding and NaN stay IEEE; only errno and floating-point traps, which nobody reads, are given up.
COMPILE_FLAGS = [
    *("-std=c++17", "-O3", "-fopenmp", "-fvisibility=hidden", "-Wall", "-Wextra"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
]
SANITIZERS = os.environ.get("WSSL_FAST_SANITIZE", "")
SANITIZE_FLAGS = [f"-fsanitize={SANITIZERS}"] if SANITIZERS else []
if SANITIZERS:
    COMPILE_FLAGS += [*SANITIZE_FLAGS, "-fno-sanitize-recover=all"]
    # Python's own flags say -fwrapv, under which overflow is no undefined behaviour to be seen.
    COMPILE_FLAGS += ["-fno-wrapv", "-O1", "-g1", "-fno-omit-frame-pointer"]


def say(*lines: str) -> None:
    print("\n".join(("wssl_fast:", *(f"  {line}" for line in lines))), file=sys.stderr, flush=True)


def say_not_built(name: str, error: Exception) -> None:
    if name == CUDA:
        say(
            f"compiled CUDA part not built: {error}",
            "It needs Linux, CUDA 12.4 or newer and a C++ compiler which that CUDA supports",
            "(NVCC_CCBIN names one); then install wssl_fast again. WSSL_FAST_CUDA=0 skips it.",
            CUDA_COST,
        )
    else:
        say(
            f"compiled part not built: {error}",
            "It needs a C++17 compiler with OpenMP: GCC 12 or newer, or Clang 15 or newer",
            "(Debian/Ubuntu: apt install g++); then install wssl_fast again.",
            COST,
        )


def cuda_wanted() -> bool:
    """Whether to try the CUDA part; says why not."""
    if CUDA_SETTING == "0":
        say(f"compiled CUDA part skipped (WSSL_FAST_CUDA=0). {CUDA_COST}")
        return False
    try:
        cuda_compiler()
    except nvcc.Unavailable as error:
        if CUDA_SETTING != "1":
            say(f"compiled CUDA part not built: {error}. {CUDA_COST}")
            return False
    return True  # with =1 the build itself raises: a source distribution needs no nvcc


def cuda_compiler() -> Path:
    if not sys.platform.startswith("linux"):
        raise nvcc.Unavailable(f"no build rules for {sys.platform}")
    if not any(path.suffix == ".cu" for path in CUDA_SOURCES):
        raise nvcc.Unavailable("no kernels in csrc/cuda")
    return nvcc.find_nvcc(os.environ)


def build_cuda(folder: Path) -> Path:
    """Compiles into ``folder`` what is new there; the path of the module."""
    import pybind11

    cxx = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    kit = nvcc.toolkit(cuda_compiler(), cxx)
    names, unknown = nvcc.architectures(kit.listed, CUDA_ARCHITECTURES)
    found = f"nvcc {kit.release} ({kit.nvcc})"
    if not names:
        raise nvcc.Unavailable(f"{found} knows none of {', '.join(CUDA_ARCHITECTURES)}")
    if unknown:
        say(f"{found} does not know sm_{', sm_'.join(unknown)}: left out.")
    say(f"compiled CUDA part: {found}, sm_{', sm_'.join(names)}; this takes minutes.")
    folder.mkdir(parents=True, exist_ok=True)
    module = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = [sysconfig.get_path("include"), pybind11.get_include()]
    build_file = folder / "build.ninja"
    build_file.write_text(
        nvcc.ninja_text(CUDA_SOURCES, folder, module, kit, names, include=include, cxx=cxx)
    )
    nvcc.run_ninja(build_file)
    try:
        nvcc.write_reports(CUDA_SOURCES, folder, Path("build", "cuda", "ptxas"))
    except OSError as error:
        say(f"ptxas's reports stay in {folder}: {error}")
    return module


def without_run_paths(command: list[str]) -> list[str]:
    """Without those that this Python was linked with, which are folders of the machine it was built
    on; those of LDFLAGS stay."""
    wanted = shlex.split(os.environ.get("LDFLAGS", ""))
    of_python = shlex.split(sysconfig.get_config_var("LDSHARED") or "")
    dropped = {f for f in of_python if f.startswith("-Wl,-rpath")} - set(wanted)
    return [flag for flag in command if flag not in dropped]


def native() -> dict[str, object]:
    """Arguments of `setup` that build the extensions, or none where both are skipped."""
    parts = {"wssl_fast._cpu": SETTING, CUDA: CUDA_SETTING}
    if SETTING == "0":
        say("compiled part skipped (WSSL_FAST_NATIVE=0).", COST)
        del parts["wssl_fast._cpu"]
    if not cuda_wanted():
        del parts[CUDA]
    if not parts:
        return {}
    try:
        from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
    except ImportError as error:
        if "1" in parts.values():
            raise
        for name, cost in (("wssl_fast._cpu", COST), (CUDA, CUDA_COST)):
            if name in parts:
                say(f"{name} not built: {error} (pip install pybind11).", cost)
        return {}

    class BuildNative(build_ext):  # type: ignore[misc]
        """Adds each file's instruction-set flags; reports a failure and carries on."""

        def run(self) -> None:
            # What an earlier build left must not pass for this one's.
            for name in ("wssl_fast._cpu", CUDA):
                if name == CUDA or name not in parts:
                    Path(self.build_lib, self.get_ext_filename(name)).unlink(missing_ok=True)
            super().run()

        def build_extensions(self) -> None:
            compile_one = self.compiler._compile
            x86 = platform.machine().lower() in ("x86_64", "amd64")

            def compile_with_flags(obj, src, ext, cc_args, extra_postargs, pp_opts):  # type: ignore[no-untyped-def]
                flags = ISA_FLAGS.get(Path(src).stem, []) if x86 else []
                compile_one(obj, src, ext, cc_args, [*extra_postargs, *flags], pp_opts)

            self.compiler._compile = compile_with_flags
            for linker in ("linker_so", "linker_so_cxx"):
                command = getattr(self.compiler, linker, None)
                if isinstance(command, list):
                    setattr(self.compiler, linker, without_run_paths(command))
            super().build_extensions()

        def build_extension(self, ext: Extension) -> None:
            try:
                if ext.name == CUDA:
                    # An editable install builds in a folder of its own each time; its CUDA objects
                    # stay here, so that the next one compiles what has changed.
                    kept = Path("build") if self.editable_mode else Path(self.build_temp)
                    target = Path(self.get_ext_fullpath(CUDA))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(build_cuda(kept / "cuda"), target)
                else:
                    super().build_extension(ext)
            except Exception as error:
                if parts[ext.name] == "1":
                    raise
                Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)  # of older sources
                say_not_built(ext.name, error)

        def copy_extensions_to_source(self) -> None:
            # An editable install copies what was built; nothing was, if the build failed.
            self.extensions = [
                e
                for e in self.extensions
                if Path(self.build_lib, self.get_ext_filename(e.name)).exists()
            ]
            built = [e.name for e in self.extensions]
            for name in ("wssl_fast._cpu", CUDA):
                stale = Path(self.get_ext_filename(name))
                if name not in built and stale.exists():
                    stale.unlink()
                    say(f"removed {stale}, of an earlier build.")
            super().copy_extensions_to_source()

    ParallelCompile(default=0).install()
    extensions = {
        "wssl_fast._cpu": Pybind11Extension(
            "wssl_fast._cpu",
            ["csrc/bindings.cpp", *sorted(str(path) for path in Path("csrc/cpu").glob("*.cpp"))],
            depends=sorted(str(p) for e in ("*.h", "*.inl") for p in Path("csrc/cpu").glob(e)),
            cxx_std=17,
            extra_compile_args=COMPILE_FLAGS,
            # libgomp.so.1 by its plain name: torch loads its own copy under the same name first
            # (see backends/native.py), so both share one thread pool.
            extra_link_args=["-fopenmp", *SANITIZE_FLAGS],
        ),
        CUDA: Extension(CUDA, [str(path) for path in CUDA_SOURCES]),
    }
    return {
        "ext_modules": [extensions[name] for name in parts],
        "cmdclass": {"build_ext": BuildNative},
    }


setup(**native())
