"""A picture of rotary pairs as the hands of clocks.

Chapter: 03_mla/longer_than_trained
Source: course
"""

from collections.abc import Sequence

from matplotlib.patches import Circle, Wedge

from tiny_lm.course.figures.style import COLORS, FAINT, Drawing, finish, new_figure


def hands(pairs: Sequence[int], turns: Sequence[float]) -> Drawing:
    """Which angles has each hand been at? A circle a pair, the known part green.

    Args:
        turns: how often each pair goes round in the trained length.
    """
    figure, axes = new_figure(2.1, columns=len(pairs))
    for ax, pair in zip(axes, pairs, strict=True):
        ax.add_patch(Circle((0, 0), 1, color=FAINT))
        known = min(turns[pair], 1.0)
        ax.add_patch(Wedge((0, 0), 1, 90 - 360 * known, 90, color=COLORS["mla"]))
        times = turns[pair]
        said = f"{times:,.0f} turns" if times >= 10 else f"{times:.2f} turns"
        ax.set_title(f"pair {pair}", fontsize=9.5)
        ax.text(0, -1.35, said, ha="center", va="center", fontsize=9.5)
        ax.set(xlim=(-1.2, 1.2), ylim=(-1.6, 1.1), aspect="equal")
        ax.set_axis_off()
    return finish(figure, narrow=False)
