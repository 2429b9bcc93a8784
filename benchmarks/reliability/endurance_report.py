"""The table that is watched, the record and the picture of a long run."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.table import Table

from benchmarks.plots.style import DPI, FAINT, INK, OURS_COLOR, PEER_COLORS, STYLE
from benchmarks.reliability import flat
from benchmarks.reliability.endurance import Sample, Samples


def watched(console: Console, found: Iterable[Sample], calls: int, kinds: int) -> Samples:
    """Gathers samples under a table of what the process holds and a progress bar."""
    progress = Progress(
        TextColumn("calls"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), Remaining(),
        console=console,
    )  # fmt: skip
    task = progress.add_task("", total=calls)
    samples = Samples()
    with Live(progress, console=console, refresh_per_second=4) as live:
        for each in found:
            samples.add(each)
            progress.update(task, completed=each.calls)
            live.update(Group(table(samples, kinds), progress))
    return samples


def table(samples: Samples, kinds: int) -> Table:
    """First, last, least and most of each column, and the rules once there are halves."""
    found = Table(box=None, pad_edge=False)
    for name in ("", "first", "last", "least", "most"):
        found.add_column(name, justify="left" if not name else "right")
    columns = {
        "memory, MiB": [each / flat.MIB for each in samples.resident],
        "threads": samples.threads,
        "open files": samples.files,
        "Python objects": samples.objects_in_all,
    }
    for name, values in columns.items():
        digits = 2 if "MiB" in name else 0
        shown = (values[0], values[-1], min(values), max(values))
        found.add_row(name, *(f"{each:,.{digits}f}" for each in shown))
    if len(samples.calls) >= 4:
        found.add_row()
        found.add_row("rule", "found", "allowed", "", "")
        for each in samples.verdicts(kinds):
            found.add_row(each.name, f"{each.found:.4g} {each.unit}", f"{each.allowed:.4g}",
                          "flat" if each.flat else "[bold red]NOT FLAT[/]", "")  # fmt: skip
    return found


def write(path: Path, samples: Samples, kinds: int, about: dict[str, Any]) -> None:
    """The samples, the rules and how they were made."""
    verdicts = [
        {"rule": v.name, "found": v.found, "allowed": v.allowed, "unit": v.unit, "flat": v.flat}
        for v in samples.verdicts(kinds)
    ]
    record = about | {"verdicts": verdicts, "samples": samples.columns()}
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")


def draw(record: dict[str, Any], path: Path) -> None:
    """Memory, objects, threads and files over calls."""
    samples, calls = record["samples"], record["samples"]["calls"]
    base = samples["resident"][0]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.0), layout="constrained")
        figure.suptitle(
            f"{calls[-1]:,} calls of {record['kinds']} kinds, forward and backward, in one process",
            x=0.01, ha="left", weight="bold", fontsize=13.5, color=INK,
        )  # fmt: skip
        memory, objects, handles = axes
        above = [(each - base) / flat.MIB for each in samples["resident"]]
        leak = flat.LEAST_LEAK * calls[-1] / flat.MIB
        _beside_a_leak(memory, calls, above, leak, "32 bytes\nleft behind a call")
        memory.set_title(f"memory above {base / flat.MIB:.0f} MiB, MiB")
        first = samples["objects"][0]
        more, turns = [each - first for each in samples["objects"]], calls[-1] / record["kinds"]
        _beside_a_leak(objects, calls, more, turns, "one object left behind\nby one kind of call")
        objects.set_title(f"Python objects above {first:,}")
        handles.plot(calls, samples["threads"], color=OURS_COLOR, linewidth=1.6, label="threads")
        handles.plot(calls, samples["files"], color=PEER_COLORS[0], linewidth=1.6,
                     label="open files")  # fmt: skip
        handles.set_ylim(0, 1.3 * max(*samples["threads"], *samples["files"]))
        handles.legend(frameon=False, ncols=2, loc="upper left")
        handles.set_title("threads and open files")
        for each in axes:
            _calls_axis(each)
        figure.savefig(path, dpi=DPI, facecolor="white")
        plt.close(figure)


def _beside_a_leak(
    axes: Axes, calls: Sequence[int], values: Sequence[float], leak: float, name: str
) -> None:
    """Values over calls, and dashed what a leak would add by the end."""
    axes.plot(calls, values, color=OURS_COLOR, marker="o", markersize=2.5, linewidth=1.2)
    axes.plot([0, calls[-1]], [0, leak], "--", color=FAINT, linewidth=1.2)
    axes.annotate(name, (0.62 * calls[-1], 0.62 * leak), xytext=(-6, 4), ha="right", va="bottom",
                  textcoords="offset points", color=FAINT, fontsize=9.5)  # fmt: skip
    top = max(leak, *values)
    axes.set_ylim(min(0, *values) - 0.1 * top, 1.1 * top)


def _calls_axis(axes: Axes) -> None:
    axes.set_xlabel("calls")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.locator_params(axis="x", nbins=5)
