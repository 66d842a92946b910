"""Who waits in a pipeline: order, stages, micro-batches, lengths of work, messages.

Chapter: 05_comm/pipelines
Source: zero_bubble; deepseek_v3, section 3.2.1

The reader chooses an order and sees who does what when, who waits, what is kept alive,
and how the other orders do with the same choice.

`pipeline_model.js` plays the same schedules in a browser and has to end at the same
numbers. All lengths are multiples of 1/8, which both count without rounding.
"""

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from tiny_lm.course.figures.exchanges import WORK
from tiny_lm.course.figures.style import COLORS, FAINT, Drawing, finish, new_figure
from tiny_lm.parallel import bubbles
from tiny_lm.parallel.bubbles import Units
from tiny_lm.parallel.whole_schedules import Schedule, build, peak_alive
from tiny_lm.parts import require

TITLES = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved": "interleaved 1F1B",
    "zb1p": "ZB1P",
    "zbv": "ZBV",
    "dualpipe": "DualPipe",
    "dualpipev": "DualPipeV",
}
RANKS, MICROS = (2, 4, 8), (4, 8, 16)
WORKS = {  # F : B : W, the backward for the input and that for the weights
    "1 : 1 : 1": (1, 1, 1),
    "1 : 1 : ½": (1, 1, Fraction(1, 2)),
    "1 : 1½ : ½": (1, Fraction(3, 2), Fraction(1, 2)),
    "1 : ½ : 1½": (1, Fraction(1, 2), Fraction(3, 2)),
}
SENDS = (0, 0.25, 0.5, 1, 2)  # what a forward sends, as a multiple of its computing
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where the controls stand.

    Raises:
        ValueError: a control has no such place.
    """

    order: str = "dualpipe"
    ranks: int = 4
    micros: int = 8
    works: str = "1 : 1 : 1"
    sends: float = 1
    hidden: bool = True

    def __post_init__(self) -> None:
        for name, allowed in places().items():
            value = getattr(self, name)
            wanted = f"{name} must be one of {list(allowed)}, got {value!r}"
            require(value in allowed, wanted)


def places() -> dict[str, tuple]:
    """Where each control but the switch can stand."""
    return {
        "order": tuple(TITLES),
        "ranks": RANKS,
        "micros": MICROS,
        "works": tuple(WORKS),
        "sends": SENDS,
    }


def units(s: Setting) -> Units:
    """Lengths of the works; a backward sends as much as it computes in all, times."""
    f, b, w = map(float, WORKS[s.works])
    return Units(
        forward=f,
        backward=b,
        weights=w,
        forward_sends=s.sends * f,
        backward_sends=s.sends * (b + w),
        hidden=s.hidden,
    )


def schedule(s: Setting, order: str | None = None) -> Schedule | None:
    """The order of all ranks; None where these counts do not fit it."""
    try:
        return build(order or s.order, s.ranks, s.micros)
    except ValueError:
        return None


@dataclass(frozen=True)
class Step:
    """What comes of an order: its length, who waits, and what each rank keeps."""

    length: float
    idle: list[float]
    alive: list[float]  # micro-batches, at the worst moment
    copies: float

    @property
    def waits(self) -> float:
        """Share of the step in which a rank has nothing to do, on average."""
        return sum(self.idle) / (len(self.idle) * self.length)


def simulate(s: Setting, order: str | None = None) -> Step | None:
    """The step of an order where the controls stand; None where it does not fit."""
    found = schedule(s, order)
    if found is None:
        return None
    of = units(s)
    length, idle = bubbles.step_length(found, of), bubbles.idle(found, of)
    return Step(length, idle, peak_alive(found), found.copies)


# --- what a page gets ---


def _written(found: Schedule) -> list[str]:
    """An action is a letter and, for each half, the stage and the micro-batch."""
    letters = {"F": "F", "B": "B", "W": "W", "BW": "D", "FB": "P"}

    def text(kind: str, *which: int) -> str:
        return letters[kind] + "".join(DIGITS[n] for n in which)

    return ["".join(text(*action) for action in row) for row in found.ranks]


def fixed() -> dict[str, Any]:
    """All that the browser needs and must not know by itself."""
    written = {}
    for order in TITLES:
        for ranks in RANKS:
            for micros in MICROS:
                s = Setting(order=order, ranks=ranks, micros=micros)
                if (found := schedule(s)) is not None:
                    key = f"{order} {ranks} {micros}"
                    written[key] = [found.num_stages, *_written(found)]
    return {
        "written": written,
        "titles": TITLES,
        "places": {name: list(of) for name, of in places().items()},
        "works": {name: [float(n) for n in of] for name, of in WORKS.items()},
        "color": COLORS["comm"],
        "colors": {kind: WORK[kind] for kind in "FBW"},
    }


def picture(s: Setting) -> Drawing:
    """Where the controls stand, for a page without JavaScript."""
    found = schedule(s)
    figure, ax = new_figure(0.8 + 0.36 * s.ranks)
    for rank, row in enumerate(bubbles.play(found, units(s)) if found else ()):
        for bar in row:
            box = {"left": bar.start, "height": 0.8, "edgecolor": "white"}
            color = WORK[bar.action[0][0]] if bar.action[0] != "FB" else COLORS["comm"]
            ax.barh(rank, bar.end - bar.start, color=color, **box)
    ax.set(yticks=range(s.ranks), xlabel="units of one forward")
    ax.set_yticklabels([f"rank {rank}" for rank in range(s.ranks)])
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0, color=FAINT)
    return finish(figure, narrow=False)


def alternative(s: Setting) -> str:
    """What `picture` shows, in words."""
    step = simulate(s)
    name, counts = TITLES[s.order], f"{s.micros} micro-batches on {s.ranks} ranks"
    if step is None:
        return f"{name} cannot take {counts}."
    return (
        f"A row for each rank: {counts} in the order of {name}, F, B and W as "
        f"{s.works}, sending {s.sends:g} times as long as computing. The step takes "
        f"{step.length:g} units; a rank waits for {step.waits:.0%} of it."
    )


def state(s: Setting) -> dict[str, Any]:
    """The choice, as the browser has it."""
    return asdict(s)
