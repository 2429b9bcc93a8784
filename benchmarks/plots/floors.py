"""Time over the floor of every group: the package, and what it is measured against."""

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.peers import W2_FORMS
from benchmarks.plots.style import FAINT, INK, OURS_COLOR, log_axis, plain
from benchmarks.records import Row
from benchmarks.report import TITLES
from benchmarks.suites.core import OURS, is_ours, merged

NEEDS = "rows of the groups"
PEER = "#d55e00"
FORMS = (OURS, *W2_FORMS)


def draw(rows: Sequence[Row]) -> Figure | None:
    """A line a group: the package blue, the fastest peer named, the other peers grey."""
    found = [row for row in rows if _case(row) and row.get("time_over_floor")]
    cases = merged([_case(row) for row in found])
    if not cases:
        return None
    figure, axes = plt.subplots(figsize=(10.5, 0.46 * len(cases) + 1.7))
    axes.set_xscale("log")
    for height, case in enumerate(reversed(cases)):
        mine = [row for row in found if _case(row) == case]
        beside = [row for row in mine if row["group"] == "W2" and row["provider"] not in FORMS]
        peers = sorted(
            (row for row in mine if row not in beside), key=lambda row: row["time_over_floor"]
        )
        peers = [row for row in peers if not is_ours(row["provider"])]
        for row in beside:
            if not is_ours(row["provider"]):
                axes.plot(row["time_over_floor"], height, "|", color=FAINT, ms=9, mew=1.4)
        for row in peers[1:]:
            axes.plot(row["time_over_floor"], height, "o", color=FAINT, ms=5, alpha=0.6)
        for row in peers[:1]:
            axes.plot(row["time_over_floor"], height, "D", color=PEER, ms=7)
            _say(axes, row["time_over_floor"], height - 0.16, row["provider"], PEER)
        ours = [row for row in mine if is_ours(row["provider"])]
        for place, row in enumerate(ours):  # a second solver's words go below
            over = row["time_over_floor"]
            axes.plot(over, height, "o", color=OURS_COLOR, ms=10, zorder=3)
            said = row["provider"].removeprefix("wssl_fast").strip(", ")
            up = height + (-0.19 if place else 0.19)
            _say(axes, over, up, f"{over:.2f} {said}".strip(), OURS_COLOR, True)
    axes.axvline(1, color=INK, linewidth=1.2)
    axes.set_yticks(range(len(cases)), list(reversed(cases)))
    axes.set_ylim(-0.7, len(cases) - 0.3)
    axes.grid(visible=False, axis="y")
    log_axis(axes.xaxis)
    ticks = [t for t in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if _inside(axes, t)]
    axes.set_xticks(ticks, [plain(tick) for tick in ticks])
    axes.set_xlabel("time over the floor")
    axes.set_title("Time over the floor", pad=26)
    for x, text, color in (
        (0.0, "● wssl_fast", OURS_COLOR),
        (0.2, "◆ fastest other", PEER),
        (0.43, "● the other forms", FAINT),
        (0.7, "| losses beside it", FAINT),
    ):
        axes.text(x, 1.01, text, transform=axes.transAxes, color=color, va="bottom")
    figure.tight_layout()
    return figure


def _case(row: Row) -> str:
    """As "W2 forward 512 x 8192"; empty for what is no group with a floor of its own."""
    if (row.get("group"), row.get("mode")) not in TITLES:
        return ""
    mode = " forward" if row["group"] == "W2" and row["mode"] == "forward" else ""
    dtype = f" {row['dtype']}" if row["dtype"] != "float32" else ""
    return f"{row['group']}{mode} {' x '.join(map(str, row['shape']))}{dtype}"


def _inside(axes: Axes, value: float) -> bool:
    low, high = axes.get_xlim()
    return low <= value <= high


def _say(axes: Axes, x: float, y: float, text: str, color: str, bold: bool = False) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(9, 0),
        textcoords="offset points",
        color=color,
        fontsize=9,
        va="center",
        weight="bold" if bold else "normal",
    )
