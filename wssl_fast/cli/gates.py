"""Conditions on a report: `--fail-if "effective_rank<100"`."""

import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
SHAPE = re.compile(rf"\s*([a-z_][a-z0-9_.]*)\s*({'|'.join(OPERATORS)})\s*(\S+)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Gate:
    """`name relation bound`, as it was typed."""

    text: str
    name: str
    relation: str
    bound: float

    def failed(self, values: Mapping[str, float | None]) -> bool:
        """Whether the condition holds, or has no number to judge by."""
        value = values[self.name]
        if value is None or value != value:
            return True
        return OPERATORS[self.relation](value, self.bound)


def parse(text: str, names: Collection[str]) -> Gate:
    """One comparison of a name with a number; `ValueError` says what is wrong otherwise."""
    match = SHAPE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no comparison such as 'effective_rank<100'")
    name, relation, bound = match.groups()
    if name not in names:
        raise ValueError(f"{text!r}: {name!r} is none of {', '.join(names)}")
    try:
        number = float(bound)
    except ValueError:
        number = float("nan")
    if number != number:
        raise ValueError(f"{text!r}: {bound!r} is not a number")
    return Gate(text.strip(), name, relation, number)
