"""Licences of what comes with the package, from its metadata; docs/licences.md says the same."""

import re
from email.message import EmailMessage
from importlib.metadata import Distribution, distributions, version
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.release.archives import PROJECT
from tests.release.licences import COPYLEFT, PAGE, PERMISSIVE, licence, page, runtime, terms

ROW = re.compile(r"^\| ([\w.-]+) \| (\S+) \| (.*?) \| ", re.MULTILINE)
LISTED = {name: (number, text) for name, number, text in ROW.findall(PAGE.read_text("utf-8"))}
RUNTIME = runtime()


def test_direct_dependencies_are_runtime_packages() -> None:
    asked = {canonicalize_name(re.split(r"[<>=]", text)[0]) for text in PROJECT["dependencies"]}
    assert asked <= RUNTIME.keys()


@pytest.mark.parametrize("name", sorted(RUNTIME))
def test_runtime_licences_are_permissive(name: str) -> None:
    found = licence(RUNTIME[name])
    assert found, f"{name} says nothing"
    assert terms(found) <= PERMISSIVE
    assert name in LISTED
    number, text = LISTED[name]
    if version(name) == number:
        assert text == found


def test_nothing_listed_is_under_a_strong_copyleft() -> None:
    assert [name for name, (_, text) in LISTED.items() if COPYLEFT.search(text)] == []
    assert [name for name, (_, text) in LISTED.items() if not text] == []


def test_page_is_what_the_command_writes() -> None:
    """Where the versions are those of the page; a newer Python needs fewer packages."""
    written = {name: row for name, *row in ROW.findall(page())}
    assert written.keys() <= LISTED.keys()
    installed = {canonicalize_name(each.name) for each in distributions()}
    assert installed.isdisjoint(LISTED.keys() - written.keys())
    same = {name for name, (number, _) in written.items() if number == LISTED[name][0]}
    assert {n: tuple(written[n]) for n in same} == {n: LISTED[n] for n in same}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License-Expression": "MIT AND BSD-3-Clause"}, "MIT AND BSD-3-Clause"),
        ({"Classifier": "License :: OSI Approved :: MIT License"}, "MIT"),
        ({"Classifier": "License :: OSI Approved :: Apache Software License"}, "Apache-2.0"),
        ({"License": "BSD 3-Clause License\n\nCopyright"}, "BSD"),
        ({"Classifier": "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"}, "GNU"),
        ({"Classifier": "Programming Language :: Python"}, ""),
    ],
)
def test_licence_of_metadata(fields: dict[str, str], expected: str) -> None:
    message = EmailMessage()
    for name, text in fields.items():
        message[name] = text.replace("\n", " ")

    class Fake(Distribution):
        metadata = message  # type: ignore[assignment]

        def read_text(self, filename: str) -> str | None:
            return None

        def locate_file(self, path: object) -> Path:
            return Path(str(path))

    found = licence(Fake())
    assert found.startswith(expected) if expected else found == ""
