"""A picture of a saving that was made in steps.

Chapter: 03_mla/what_93_percent_means
Source: course
"""

from collections.abc import Mapping

from tiny_lm.course.figures.style import COLORS, Drawing, finish, new_figure


def two_steps(sizes: Mapping[str, float]) -> Drawing:
    """What is left after each step? A bar a step; the second is latent attention's."""
    figure, ax = new_figure(0.5 * len(sizes) + 0.7)
    colors = (COLORS["baseline"], COLORS["mla"], COLORS["fp8"])
    for row, ((_, size), color) in enumerate(zip(sizes.items(), colors, strict=True)):
        ax.barh(row, size / 1000, 0.6, color=color)
        ax.text(size / 1000, row, f"  {size:,.0f}", va="center", color=color)
    ax.set_yticks(range(len(sizes)), list(sizes))
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="kilobytes a token", xlim=(0, 1.22 * max(sizes.values()) / 1000))
    ax.invert_yaxis()
    return finish(figure)
