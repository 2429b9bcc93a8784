"""`python -m benchmarks.demo.readme build/demo/demo.md README.md`: paste the demo's tables.

They go between the lines `<!-- demo:begin -->` and `<!-- demo:end -->`, which the page must hold.
"""

import sys
from pathlib import Path

BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"


def paste(tables: str, page: str, first: str = BEGIN, last: str = END) -> str:
    """The page with what lies between its markers replaced; ValueError without both, in order."""
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {first} and {last}, in this order")
    return f"{before}{first}\n{tables.strip()}\n{last}{after}"


def main(source: str, target: str) -> None:
    page = Path(target)
    tables = Path(source).read_text(encoding="utf-8")
    page.write_text(paste(tables, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
