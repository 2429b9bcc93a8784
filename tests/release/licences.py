"""docs/licences.md: what the package, its extras and its tools are licensed under.

`python -m tests.release licences` writes it from the metadata of what is installed.
"""

import re
from collections.abc import Iterable
from importlib.metadata import Distribution, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.release.archives import PROJECT, ROOT
from tests.release.requirements import PACKAGE, closure

PAGE = ROOT / "docs" / "licences.md"
TOOLS = ("test", "bench", "lint", "dev")
EXTRAS = tuple(name for name in PROJECT["optional-dependencies"] if name not in TOOLS)
KNOWN = {
    "apache": "Apache-2.0",
    "bsd": "BSD",
    "isc": "ISC",
    "mit": "MIT",
    "mozilla": "MPL-2.0",
    "psf": "PSF-2.0",
    "python software foundation": "PSF-2.0",
}
PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC"),
    *("LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib"),
}
OF_CUDA = re.compile(r"(nvidia|cuda)-")  # what a CUDA build of PyTorch brings
COPYLEFT = re.compile(r"GPL|AFFERO|EUPL|CDDL|EPL|OSL|SSPL|CC-BY-SA", re.IGNORECASE)

HEAD = """\
# Licences

wssl_fast is under the MIT licence and its sources hold no code of others. Compiled modules hold
what pybind11's headers (BSD-3-Clause) generate and, where nvcc built one, CUDA's static runtime
under NVIDIA's terms.

These packages are what pip installs beside it on Linux, with the versions of `constraints.txt` and
the licences that their metadata names, in SPDX's words where they say so, else as short.
`python -m tests.release licences` writes this page; a test holds every runtime licence to
permissive ones (MPL-2.0, which asks for its own files alone, would pass). A CUDA build of PyTorch
brings NVIDIA's libraries under NVIDIA's terms, which are not in this table.
"""


def licence(package: Distribution) -> str:
    """The SPDX expression, or what the older fields come to; "" where a package says nothing."""
    found = package.metadata
    if expressions := found.get_all("License-Expression", []):
        return str(expressions[0])
    named = found.get_all("License", [])[:1]
    classified = [text for text in found.get_all("Classifier", []) if "License" in text]
    for text in (*classified, *named):
        if COPYLEFT.search(text):
            return str(text.splitlines()[0].rpartition(" :: ")[2])
        for word, name in KNOWN.items():
            if re.search(rf"\b{word}\b", text[:200], re.IGNORECASE):
                return name
    return ""


def terms(expression: str) -> set[str]:
    """The licences that an expression joins."""
    return set(re.split(r"\s+(?:AND|OR|WITH)\s+|[()\s]+", expression)) - {""}


def runtime() -> dict[str, Distribution]:
    """What pip installs with the package, but for NVIDIA's libraries."""
    return {name: p for name, p in closure().items() if not OF_CUDA.match(name)}


def groups() -> dict[str, dict[str, Distribution]]:
    """Packages by what first asks for them: the package, its extras, the tools around it."""
    alone, extras, tools = runtime(), closure(EXTRAS), closure(TOOLS)
    return {
        "Runtime": alone,
        "Extras": {name: p for name, p in extras.items() if name not in closure()},
        "Tests, benchmarks and linters": {
            name: p for name, p in tools.items() if name not in extras
        },
    }


def named_directly(extras: Iterable[str]) -> set[str]:
    """What the package's own metadata asks for."""
    asked = map(Requirement, requires(PACKAGE) or ())
    return {
        canonicalize_name(r.name)
        for r in asked
        if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in ("", *extras))
    }


def page() -> str:
    lines = HEAD.splitlines()
    asked_by: Iterable[Iterable[str]] = ((), EXTRAS, (*EXTRAS, *TOOLS))
    for (group, packages), extras in zip(groups().items(), asked_by, strict=True):
        direct = named_directly(extras)
        lines += [
            "",
            f"## {group}",
            "",
            "| package | version | licence | why |",
            "|---|---|---|---|",
        ]
        for name, package in sorted(packages.items()):
            asked = "asked for" if name in direct else "needed by those"
            lines.append(f"| {name} | {package.version} | {licence(package)} | {asked} |")
    return "\n".join(lines) + "\n"
