"""Pictures of pipelines: what every rank does when, drawn from checked schedules.

Chapter: 05_comm/pipelines
"""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.diagrams import arrow, blank, box
from tiny_lm.course.figures.exchanges import WORK
from tiny_lm.course.figures.style import COLORS, FAINT, INK, Drawing, finish, new_figure
from tiny_lm.parallel.bubbles import FREE, Bar, Units, play
from tiny_lm.parallel.schedules import parts
from tiny_lm.parallel.whole_schedules import Schedule, complaint
from tiny_lm.parts import require

COMM = COLORS["comm"]
# A rank's second stage has the same colours, darker.
SECOND = {"F": "#9A9A9A", "B": "#00466E", "W": "#00614A"}
SMALLEST = 6  # points: the numbers of half units
NUMBERED = 0.012  # of the width: a box that is narrower has no room for its number


def stages() -> Drawing:
    """How does a micro-batch pass four ranks? Right, then back to the left."""
    figure, ax = blank(1.35, (-0.15, 4.05), (-0.45, 1.05))
    for rank in range(4):
        box(ax, (rank, 0.1), (0.75, 0.7), f"stage {rank}", FAINT, 11)
        ax.text(rank + 0.375, -0.2, f"rank {rank}", ha="center", fontsize=10)
        if rank < 3:
            arrow(ax, (rank + 0.77, 0.6), (rank + 0.98, 0.6))
            arrow(ax, (rank + 0.98, 0.3), (rank + 0.77, 0.3))
    return finish(figure)


def orders(schedules: Mapping[str, Schedule], units: Units = FREE) -> Drawing:
    """What does each rank do when, in each schedule? White is waiting.

    Raises:
        ValueError: something is wrong with a schedule; says what.
    """
    for schedule in schedules.values():
        wrong = complaint(schedule)
        require(wrong is None, f"{schedule.name} cannot be drawn: {wrong}")
    played = {name: play(schedule, units) for name, schedule in schedules.items()}
    last = max(row[-1].end for rows in played.values() for row in rows)
    heights = [len(rows) for rows in played.values()]
    figure, _ = new_figure(0.6 + 0.28 * sum(heights) + 0.3 * len(heights))
    figure.clear()
    axes = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, height_ratios=heights
    )[:, 0]
    for ax, (name, rows) in zip(axes, played.items(), strict=True):
        schedule = schedules[name]
        ax.set(xlim=(0, last), ylim=(len(rows) - 0.4, -0.6), yticks=range(len(rows)))
        for rank, row in enumerate(rows):
            near = min(stage for bar in row for _, stage, _ in parts(bar.action))
            for bar in row:
                _draw(ax, rank, bar, units, schedule.share, near)
        ax.set_yticklabels([f"rank {rank}" for rank in range(len(rows))], fontsize=9)
        ax.tick_params(axis="y", length=0)
        ax.spines[["left", "top", "right"]].set_visible(False)
        ax.set_title(name, loc="left", fontsize=10.5, color=INK)
    axes[-1].set_xlabel("units of time: a forward of a rank's whole share takes one")
    return finish(figure, narrow=False)


def _draw(ax: Axes, rank: int, bar: Bar, units: Units, share: float, near: int) -> None:
    """An action: its works one after the other, a pair's one above the other."""
    kind, start = bar.action[0], bar.start
    works = parts(bar.action)
    if len(works) == 2:
        length = units.computing(kind) * share
        for (half, stage, micro), y in zip(works, (rank - 0.4, rank), strict=True):
            at, size = (start, y), (length, 0.4)
            _box(ax, half[0], stage != near, str(micro), at, size)
        start += length
    for letter, stage, micro in works if len(works) == 1 else ():
        for work in "BW" if letter == "BW" else letter:
            length = units.computing(work) * share
            at, size = (start, rank - 0.4), (length, 0.8)
            _box(ax, work, stage != near, str(micro), at, size)
            start += length
    if bar.end - start > 1e-9:
        at, size = (start, rank - 0.4), (bar.end - start, 0.8)
        ax.add_patch(Rectangle(at, *size, fc=COMM, ec="white", lw=0.8))


def _box(
    ax: Axes,
    work: str,
    second: bool,
    number: str,
    at: tuple[float, float],
    size: tuple[float, float],
) -> None:
    color = (SECOND if second else WORK)[work]
    ax.add_patch(Rectangle(at, *size, fc=color, ec="white", lw=0.8))
    if size[0] < NUMBERED * ax.get_xlim()[1]:
        return
    small = size[1] < 0.5 or size[0] < 1
    ax.text(
        at[0] + size[0] / 2,
        at[1] + size[1] / 2,
        number,
        color=INK if work == "F" and not second else "white",
        ha="center",
        va="center",
        fontsize=SMALLEST if small else 7.5,
    )
