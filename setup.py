"""Build of the optional compiled part, wssl_fast._cpu (csrc/); metadata is in pyproject.toml.

WSSL_FAST_NATIVE=0 skips it, =1 turns a failure to build it into an error. Unset, a machine
without a working C++ compiler gets the pure PyTorch package and a message that says so.
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import setup

SETTING = os.environ.get("WSSL_FAST_NATIVE", "")
COST = (
    "wssl_fast works without it, through PyTorch calls: the symmetric products then cost a full "
    "GEMM and the row-wise passes several sweeps over memory. `wssl-fast doctor` says what is used."
)
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


def say(*lines: str) -> None:
    print("\n".join(("wssl_fast:", *(f"  {line}" for line in lines))), file=sys.stderr, flush=True)


def native() -> dict[str, object]:
    """Arguments of `setup` that build the extension, or none where it is skipped."""
    if SETTING == "0":
        say("compiled part skipped (WSSL_FAST_NATIVE=0).", COST)
        return {}
    try:
        from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
    except ImportError as error:
        if SETTING == "1":
            raise
        say(f"compiled part not built: {error} (pip install pybind11).", COST)
        return {}

    class BuildNative(build_ext):  # type: ignore[misc]
        """Adds each file's instruction-set flags; reports a failure and carries on."""

        def build_extensions(self) -> None:
            compile_one = self.compiler._compile
            x86 = platform.machine().lower() in ("x86_64", "amd64")

            def compile_with_flags(obj, src, ext, cc_args, extra_postargs, pp_opts):  # type: ignore[no-untyped-def]
                flags = ISA_FLAGS.get(Path(src).stem, []) if x86 else []
                compile_one(obj, src, ext, cc_args, [*extra_postargs, *flags], pp_opts)

            self.compiler._compile = compile_with_flags
            try:
                super().build_extensions()
            except Exception as error:
                if SETTING == "1":
                    raise
                say(
                    f"compiled part not built: {error}",
                    "It needs a C++17 compiler with OpenMP: GCC 12 or newer, or Clang 15 or newer",
                    "(Debian/Ubuntu: apt install g++); then install wssl_fast again.",
                    COST,
                )

        def copy_extensions_to_source(self) -> None:
            # An editable install copies what was built; nothing was, if the build failed.
            built = [e for e in self.extensions if Path(self.get_ext_fullpath(e.name)).exists()]
            in_build = [
                e
                for e in self.extensions
                if Path(self.build_lib, self.get_ext_filename(e.name)).exists()
            ]
            self.extensions = in_build or built
            super().copy_extensions_to_source()

    ParallelCompile(default=0).install()
    extension = Pybind11Extension(
        "wssl_fast._cpu",
        sorted(str(path) for path in Path("csrc").rglob("*.cpp")),
        depends=sorted(str(p) for e in ("*.h", "*.inl") for p in Path("csrc").rglob(e)),
        extra_compile_args=COMPILE_FLAGS,
        # libgomp.so.1 by its plain name: torch loads its own copy under the same name first (see
        # backends/native.py), so both share one thread pool.
        extra_link_args=["-fopenmp"],
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildNative}}


setup(**native())
