"""Pictures of lab 5's dispatch: the way of rows, and who sends how many to whom.

Chapter: 05_comm/experts_apart
"""

from collections.abc import Sequence

from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.diagrams import blank
from tiny_lm.course.figures.experts_apart import rows_on_ranks
from tiny_lm.course.figures.style import COLORS, INK, MIDDLE, Drawing, finish

COMM = COLORS["comm"]


def stages(
    tokens: Sequence[str], chosen: dict[str, Sequence[int]], num_experts: int
) -> Drawing:
    """Which rows lie where on two ranks, from the tokens to their experts?

    Args:
        tokens: those of each rank, a letter each.
        chosen: by letter, the experts of a token.
    """
    held = [[(name, -1, rank) for name in tokens[rank]] for rank in range(2)]
    copies = [
        [(name, expert, rank) for name in tokens[rank] for expert in chosen[name]]
        for rank in range(2)
    ]
    leaving = [sorted(rows, key=lambda row: row[1]) for rows in copies]
    local = num_experts // 2
    came = [
        [row for rows in leaving for row in rows if row[1] // local == rank]
        for rank in range(2)
    ]
    arriving = [sorted(rows, key=lambda row: row[1]) for rows in came]
    return rows_on_ranks(
        {
            "tokens": held,
            "choices, token after token": copies,
            "as they leave, by expert": leaving,
            "as they come, by sender": came,
            "as the experts want them": arriving,
        }
    )


def traffic(rows: Sequence[Sequence[int]]) -> Drawing:
    """Who sends how many rows to whom? A line for each sender, and what each gets."""
    size = len(rows)
    most = max(max(line) for line in rows)
    figure, ax = blank(0.46 * (size + 2) + 0.2, (-2.0, size + 0.1), (0, 1))
    ax.set_ylim(size + 1.35, -0.8)
    for rank in range(size):
        ax.text(rank + 0.5, -0.35, f"to rank {rank}", fontsize=10, **MIDDLE)
        ax.text(-0.15, rank + 0.5, f"from rank {rank}", ha="right", va="center")
        for to, count in enumerate(rows[rank]):
            _cell(ax, (to, rank), count, count / most)
    ax.text(-0.15, size + 0.75, "gets", ha="right", va="center")
    for to in range(size):
        total = sum(line[to] for line in rows)
        ax.text(to + 0.5, size + 0.75, str(total), fontweight="bold", **MIDDLE)
    return finish(figure)


def _cell(ax, at: tuple[float, float], count: int, share: float) -> None:
    pale = [1 - share * (1 - part) for part in to_rgb(COMM)]
    look = {"fc": pale, "ec": "white"}
    ax.add_patch(Rectangle((at[0] + 0.02, at[1] + 0.03), 0.96, 0.94, **look))
    ax.text(at[0] + 0.5, at[1] + 0.5, str(count), color=INK, **MIDDLE)
