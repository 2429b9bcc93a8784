"""What the package needs, as installed here, with all that those packages need."""

from collections.abc import Iterable
from importlib.metadata import Distribution, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "wssl-fast"


def closure(extras: Iterable[str] = (), of: str = PACKAGE) -> dict[str, Distribution]:
    """By normalised name, without `of` itself. `PackageNotFoundError` for what is absent."""
    found: dict[str, Distribution] = {}
    seen, todo = set(), [(of, frozenset(extras))]
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        found[name] = distribution(name)
        for requirement in map(Requirement, found[name].requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in wanted or {""}):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    del found[of]
    return found
