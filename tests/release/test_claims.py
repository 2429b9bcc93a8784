"""What the project says of itself in more than one place is the same everywhere."""

import re
import sys
import tomllib
from importlib.metadata import metadata

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import wssl_fast
from tests.release.__main__ import INSTALLS
from tests.release.archives import PROJECT, ROOT

PINNED = re.compile(r"^([\w.-]+)==(\S+)$", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    return {package.lower(): version for package, version in PINNED.findall(text(name))}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def lower_bounds() -> dict[str, str]:
    """Of the dependencies and the extras that people install."""
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *(r for e in ("metrics", "inspect") for r in extras[e])]
    found = {}
    for requirement in map(Requirement, asked):
        (bound,) = requirement.specifier
        assert bound.operator == ">=", f"{requirement}: a range open above"
        found[requirement.name] = bound.version
    return found


def test_version() -> None:
    """`test_package.py` compares it with the metadata of what is installed."""
    assert wssl_fast.__version__ == PROJECT["version"]
    headings = re.findall(r"^## \[(\S+)\]", text("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == PROJECT["version"]


def test_python_versions() -> None:
    named = [
        c.rsplit(" ", 1)[1]
        for c in PROJECT["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", c)
    ]
    assert PROJECT["requires-python"] == f">={named[0]}"
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(version) for version in named)
    ruff = tomllib.loads(text("pyproject.toml"))["tool"]["ruff"]["target-version"]
    assert ruff == f"py{named[0].replace('.', '')}"
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert here in named, "these tests run on a version that the classifiers do not name"


def test_build_needs_no_torch() -> None:
    """An isolated build would fetch one of its own, gigabytes of it."""
    requires = tomllib.loads(text("pyproject.toml"))["build-system"]["requires"]
    names = {Requirement(r).name for r in requires}
    assert names == {"setuptools", "pybind11", "ninja"}


def test_oldest_versions_are_the_lower_bounds() -> None:
    oldest = pins("constraints-oldest.txt")
    build = tomllib.loads(text("pyproject.toml"))["build-system"]["requires"]
    bounds = lower_bounds() | {
        r.name: next(iter(r.specifier)).version for r in map(Requirement, build) if r.specifier
    }
    for name, bound in bounds.items():
        assert Version(oldest[name]) in SpecifierSet(f"~={bound}.0"), name


@pytest.mark.parametrize("name", sorted(lower_bounds()))
def test_pinned_versions_satisfy_the_bounds(name: str) -> None:
    assert Version(pins("constraints.txt")[name]) >= Version(lower_bounds()[name])


def test_install_commands_of_the_pages_are_those_that_are_tried() -> None:
    """`python -m tests.release` runs INSTALLS."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")]
    found = {
        re.sub(r"\s+#.*", "", command).strip()
        for page in pages
        if page.name != "reliability.md"
        for command in re.findall(
            r"(?:^ {4}|`|^)(pip install [^`\n]+)", page.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert found == set(INSTALLS)


def test_metadata_of_what_is_installed() -> None:
    found = metadata("wssl-fast")
    assert found["License-Expression"] == "MIT"
    assert "MIT License" in text("LICENSE")
    assert found["Requires-Python"] == PROJECT["requires-python"]
    assert set(found.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
