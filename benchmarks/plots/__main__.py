"""`python -m benchmarks.plots`: figures from recorded rows alone, into docs/figures/.

A figure whose rows are not there is skipped, with a line that says so.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from PIL import Image

from benchmarks import machine
from benchmarks.plots import accuracy, floors, steps, times
from benchmarks.plots.style import DPI, STYLE
from benchmarks.records import RESULTS, latest, read_machine

OUT = Path(__file__).parents[2] / "docs" / "figures"
FIGURES = {"times": times, "accuracy": accuracy, "steps": steps, "floors": floors}


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("--machine", default=machine.machine_name(), help="folder of the rows")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    rows = latest(read_machine(given.results / given.machine))
    given.out.mkdir(parents=True, exist_ok=True)
    for name, module in FIGURES.items():
        with plt.rc_context(STYLE):
            figure = module.draw(rows)
            if figure is None:
                say(f"{name}: skipped, no {module.NEEDS} in {given.results / given.machine}")
                continue
            path = given.out / f"{name}.png"
            figure.savefig(path, dpi=DPI, facecolor="white")
            plt.close(figure)
            _fewer_colors(path)
            say(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def _fewer_colors(path: Path) -> None:
    """A palette of 64 colours: a third of the bytes, and no difference that shows."""
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(64)
    small.save(path, optimize=True)


if __name__ == "__main__":
    main()
