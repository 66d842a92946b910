"""Task 5.7: a pipeline's schedule, one forward, one backward, as data.

Chapter: 05_comm/pipelines
Source: zero_bubble; deepseek_v3, section 3.2.1
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Generator

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import Probe
from tiny_lm.course.checks.comm.patience import ENDLESS, patience
from tiny_lm.course.checks.comm.schedules import UNITS, Action, held, play
from tiny_lm.course.checks.expect import Mismatch, show
from tiny_lm.course.checks.task import Task


def one_f_one_b(num_stages: int, stage: int, num_micro: int) -> list[tuple[str, int]]:
    """What one stage does, in order: ("F", micro-batch) and ("B", micro-batch)."""
    ahead = min(num_stages - stage - 1, num_micro)
    actions = [("F", micro) for micro in range(ahead)]
    for micro in range(num_micro):
        if micro + ahead < num_micro:
            actions.append(("F", micro + ahead))
        actions.append(("B", micro))
    return actions


task_5_7 = Task(
    id="5.7",
    lab="05_comm",
    title="One forward, one backward",
    name="one_f_one_b",
    piece="comm.one_f_one_b",
    difficulty=2,
    minutes=18,
    points=3,
    reference=one_f_one_b,
    errors={
        ENDLESS: "This goes on for ever. What brings its loop to an end?",
    },
    hints=(
        """
        Look at the last stage first: it can turn round at once, F0 B0 F1 B1. How many
        forwards must the stage before it have sent on by the time B0 comes back? And
        the first stage?
        """,
        """
        Three phases. First as many forwards as there are stages behind this one (or as
        there are micro-batches, if those are fewer). Then one forward and one backward
        in turn, until no forward is left. Then the backwards that remain.
        """,
        """
        ahead = min(num_stages - stage - 1, num_micro), and the list begins with the F
        of range(ahead). Then for each micro in range(num_micro): ("F", micro + ahead),
        as long as there is such a micro-batch, and ("B", micro).
        """,
    ),
)

FORM = 'a list of pairs, such as [("F", 0), ("B", 0)]'
Watch = Callable[[list[list[Action]]], Any]


def stages_of(answer: Answer, num_stages: int, num_micro: int) -> list[list[Action]]:
    """The lists of all stages, each action with its stage."""
    with patience():
        lists = [answer(num_stages, s, num_micro) for s in range(num_stages)]
    return [_actions(found, s, answer) for s, found in enumerate(lists)]


def _actions(found: Any, stage: int, answer: Answer) -> list[Action]:
    pairs = list(found) if isinstance(found, Iterable) else [found]
    for pair in pairs:
        fits = isinstance(pair, tuple | list) and len(pair) == 2
        if not fits or pair[0] not in ("F", "B") or type(pair[1]) is not int:
            raise Mismatch(answer.last[0], FORM, _told(pair), _malformed(pair))
    return [("F" if kind == "F" else "BW", stage, micro) for kind, micro in pairs]


def _told(pair: Any) -> str:
    return f"{show(pair)} in it"


def _malformed(pair: Any) -> str:
    if isinstance(pair, tuple | list) and pair and isinstance(pair[0], tuple | list):
        return (
            "There are lists in the list. The function is asked for one stage at a "
            "time: only what *this* stage does belongs into it."
        )
    return 'An action is a pair: "F" or "B", then the number of the micro-batch.'


def watched(watch: Watch, *sizes: tuple[int, int]) -> Probe:
    """All stages' lists for each pair of (stages, micro-batches), and what of them."""

    def use(answer: Answer, generator: Generator) -> dict[str, Any]:
        if len(sizes) == 1:
            return {"": watch(stages_of(answer, *sizes[0]))}
        return {f"{name(*s)}:": watch(stages_of(answer, *s)) for s in sizes}

    return Probe(use, "\n".join(f"the lists of all stages: {name(*s)}" for s in sizes))


def watched_anywhere(watch: Watch) -> Probe:
    """The same for three pairs of sizes that are drawn."""

    def use(answer: Answer, generator: Generator) -> dict[str, Any]:
        low, high = torch.tensor([2, 1]), torch.tensor([9, 24])
        drawn = torch.rand(3, 2, generator=generator) * (high - low + 1)
        sizes = (drawn.long() + low).tolist()
        return {f"{name(*s)}:": watch(stages_of(answer, *s)) for s in sizes}

    return Probe(use, "the lists of all stages, for three pairs of drawn sizes")


def name(num_stages: int, num_micro: int) -> str:
    """Two sizes in words."""
    stages = f"{num_stages} stage{'s' * (num_stages > 1)}"
    return f"{stages}, {num_micro} micro-batch{'es' * (num_micro > 1)}"


def work(lists: list[list[Action]]) -> str:
    """Which micro-batches go forward and backward, in whatever order."""
    lines = []
    for stage, actions in enumerate(lists):
        parts = []
        for kind in "FB":
            numbers = sorted(micro for k, _, micro in actions if k[0] == kind)
            parts.append(f"{kind} {' '.join(map(str, numbers)) or 'of none'}")
        lines.append(f"stage {stage}: {', '.join(parts)}")
    return "\n".join(lines)


def course(lists: list[list[Action]]) -> str:
    """Who waits for ever, if anybody does."""
    return play(lists, UNITS).stuck or "every stage comes to its end"


def memory(lists: list[list[Action]]) -> str:
    """What stages hold at most, where it is more than 1F1B needs."""
    counts, stages = [held(actions) for actions in lists], len(lists)
    limits = [stages - stage for stage in range(stages)]
    over = any(a > b for a, b in zip(counts, limits, strict=True))
    return f"at most {show(counts if over else limits)} at once, by stage"


def length(lists: list[list[Action]]) -> str:
    """How long the step takes, and how much of it is waiting."""
    played = play(lists, UNITS)
    if played.stuck:
        return played.stuck
    return f"a step of {played.step} units, idle {show(played.idle)} by stage"


def everything(lists: list[list[Action]]) -> str:
    """All of it in one text."""
    return "\n".join(f(lists) for f in (work, course, memory, length))


TURN = 'actions.append(("F", micro + ahead))\n        actions.append(("B", micro))'
AHEAD = "min(num_stages - stage - 1, num_micro) =>"

task_5_7.asks(
    "each stage does F and B of every micro-batch, each once",
    watched(work, (4, 6)),
    otherwise="Every micro-batch passes every stage twice: F on its way there, B on "
    "its way back.",
    mistakes={
        "for micro in range(num_micro): => for micro in range(num_micro - ahead):": (
            "The last backwards are missing: as many as the stage had run ahead. When "
            "no forward is left, they are still owed."
        ),
        "if micro + ahead < num_micro: => if True:": "There are forwards of "
        "micro-batches that do not exist. After the last forward only backwards are "
        "left.",
        '("F", micro + ahead) => ("F", micro)': "The stage goes back to number 0 after "
        "it has run ahead: the next forward is that of the first micro-batch that has "
        "not come yet.",
        '("B", micro) => ("B", micro + ahead)': "Backwards are numbered like the "
        "forwards beside them. The stage is `ahead` micro-batches ahead: what comes "
        "back is the oldest that it holds.",
        '("F", micro) for => ("F", micro + 1) for ;; ("F", micro + ahead) => '
        '("F", micro + ahead + 1) ;; ("B", micro) => ("B", micro + 1)': (
            "Micro-batches are numbered from 1 here. They are numbered from 0."
        ),
        '        actions.append(("B", micro)) =>         pass': "No backward is in "
        "the list.",
        'actions = [("F", micro) for micro in range(ahead)] => actions = []': "The "
        "first forwards are missing: the loop begins with number `ahead`, and nothing "
        "came before it.",
    },
)

BACKWARDS = (
    "The last stage runs ahead furthest, and the first not at all. It is the other way "
    "round: the first waits longest for its first backward."
)
OWN = (
    "A backward stands before the forward of the same micro-batch. On the last stage a "
    "micro-batch turns round: F, then at once B."
)
NEWEST = (
    "The newest micro-batch goes back first, and it has not yet been to the last stage "
    "when its backward is waited for. The oldest goes back first."
)

task_5_7.asks(
    "no stage waits for ever for another",
    watched(course, (4, 6)),
    otherwise="An F waits for the stage before, a B for the stage behind, and each "
    "stage keeps to its order. Follow one of these waits until it comes back to where "
    "it began.",
    mistakes={
        f"{AHEAD} min(stage, num_micro)": BACKWARDS,
        f"{TURN} => pass\n        actions.append(('B', micro))\n"
        "        if micro + ahead < num_micro:\n"
        "            actions.append(('F', micro + ahead))": OWN,
        '("B", micro) => ("B", num_micro - 1 - micro)': NEWEST,
        f"{AHEAD} min(stage + 1, num_micro)": BACKWARDS,
    },
)
