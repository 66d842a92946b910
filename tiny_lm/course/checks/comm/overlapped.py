"""Task 5.6: two micro-batches in such an order that bytes travel beside kernels.

Chapter: 05_comm/hiding
Source: deepseek_v3, section 3.2.1
"""

import sys
from collections.abc import Callable
from typing import Any

from tiny_lm.course.checks.case import Probe
from tiny_lm.course.checks.comm import orders
from tiny_lm.course.checks.comm.orders import come_back, on_layers, on_ranks, parts_done
from tiny_lm.course.checks.task import CheckFailed, Task
from tiny_lm.course.figures.style import Drawing
from tiny_lm.course.labs import hidden
from tiny_lm.course.labs.two_batches import Batch, Layer


def overlapped(layers: list[Layer], a: Batch, b: Batch) -> tuple[Batch, Batch]:
    """Both micro-batches through all layers: one computes while the other travels."""
    back_b = None
    for layer in layers:
        a = layer.attend(a)
        there_a = layer.start_dispatch(a)
        if back_b is not None:
            b = back_b.wait()
        b = layer.attend(b)
        there_b = layer.start_dispatch(b)
        a = layer.experts(there_a.wait())
        back_a = layer.start_combine(a)
        b = layer.experts(there_b.wait())
        back_b = layer.start_combine(b)
        a = back_a.wait()
    return a, back_b.wait()


class DrawnTask(Task):
    """A task that shows a picture under its report, where an answer is too slow."""

    def __call__(self, function: Callable[..., Any]) -> None:
        """Check an answer, print what holds, and draw what hides too little."""
        orders.last_timed(forget=True)
        try:
            super().__call__(function)
        except CheckFailed:
            found = picture()
            if found and "IPython" in sys.modules:  # in a notebook
                from IPython.display import display

                display(found)
            raise


def picture(ms: float = 14.0) -> Drawing | None:
    """The timeline of the last answer under the reference's, around its longest gap."""
    from tiny_lm.course.figures import overlap_lab  # ranks import this module, too

    last = orders.last_timed()
    if last is None:
        return None
    gap = hidden.longest_gap(last.timeline, last.calls)
    ours = orders.reordered(orders.calls_of(overlapped), last.seed)
    both = {"tiny_lm's": ours, "yours": last.timeline}
    rank = gap.rank if gap else 0
    return overlap_lab.compared(both, ms, rank, gap).captioned(
        "Above, an order that hides nearly everything; below, yours, with its longest "
        "gap. Letters name micro-batches, numbers layers.",
        alt=f"Two timelines of rank {rank}. {gap or 'There is no gap to speak of.'}",
    )


task_5_6 = DrawnTask(
    id="5.6",
    lab="05_comm",
    title="Two micro-batches that take turns",
    name="overlapped",
    piece="comm.overlapped",
    difficulty=3,
    minutes=30,
    points=4,
    reference=overlapped,
    returns=("a", "b"),
    errors={
        "still under way": "What was sent is used before it has arrived. `wait()` on "
        "what the start returned gives the rows.",
        "waited for already": "The same trip was waited for twice. The first wait() "
        "gave the rows: keep them.",
        "not next for": "The parts of a layer have one order for each micro-batch: "
        "attend, dispatch, experts, combine, and then the next layer. What comes back "
        "from one goes into the next; was a result dropped, or the other "
        "micro-batch's taken?",
        "is no micro-batch": "The parts take a micro-batch, as another part or a "
        "wait() gave it.",
        "'UnderWay' object": "What was sent is still under way: `wait()` gives the "
        "micro-batch when it is here.",
        "'NoneType' object has no attribute 'wait'": "In the first layer nothing is "
        "under way from the layer before.",
        "object has no attribute": "A layer has attend, experts, dispatch, combine, "
        "start_dispatch and start_combine; what a start returns has wait.",
    },
    hints=(
        """
        While something of a travels, only b can be computed, and the other way round.
        So between a start and its wait stands a part of the other micro-batch.
        """,
        """
        Within a layer: attend and send a, attend and send b, then experts of a, experts
        of b, each sent home at once. Wait as late as you can: just before the part that
        needs it. What does b's trip home wait for? For the next layer's attend of a.
        """,
        """
        Carry what is under way over the layer's edge: back_b = None before the loop. In
        it, a = layer.attend(a) and its start_dispatch come first; only then
        `if back_b is not None: b = back_b.wait()`, then attend and start_dispatch of b.
        After both experts, back_b = layer.start_combine(b), then a = back_a.wait().
        """,
    ),
)

TOO_EARLY = (
    "What was sent is used before it has arrived: on a GPU that would be whatever "
    "stands in memory. `wait()` gives the rows."
)
EXPERTS_A = "layer.experts(there_a.wait()) =>"

task_5_6.asks(
    "both take every part of every layer, once, and nothing before it has arrived",
    on_layers(parts_done, 1, 3),
    otherwise="Each micro-batch goes through attend, dispatch, experts and combine of "
    "each layer.",
    mistakes={
        f"{EXPERTS_A} layer.experts(there_a)": TOO_EARLY,
        "b = layer.experts(there_b.wait()) => b = layer.experts(there_b)": TOO_EARLY,
        "a = back_a.wait() => a = back_a": TOO_EARLY,
        "            b = back_b.wait() =>             b = back_b": TOO_EARLY,
        "        a = back_a.wait() =>         pass": "a goes into the next layer, or "
        "comes back, as it left its experts: its combine was started and never waited "
        "for.",
        f"{EXPERTS_A} layer.experts(a)": "Experts were given what attention made, and "
        "not the rows that were sent to this rank: those come from the wait.",
        "there_b = layer.start_dispatch(b) => there_b = layer.start_dispatch(a)": (
            "a was sent twice, and b never."
        ),
        "b = layer.experts(there_b.wait()) => b = layer.experts(there_a.wait())": (
            "a's dispatch was waited for twice, and b's never."
        ),
        "for layer in layers: => for layer in layers[:1]:": "Only the first layer was "
        "run.",
        "for layer in layers: => for layer in reversed(layers):": "The last layer came "
        "first.",
        "b = layer.attend(b) => a = layer.attend(a)": "attend got a twice, and b "
        "never.",
    },
)

task_5_6.asks(
    "a and b come back, in this order, and nothing is left under way",
    on_layers(come_back, 1, 3),
    otherwise="Both are returned after their last combine has been waited for.",
    mistakes={
        "return a, back_b.wait() => return a, back_b": "b was returned while it is "
        "still under way. What was sent last has to be waited for as well.",
        "return a, back_b.wait() => return a, b": "b was returned as it left its "
        "experts. Its last combine was started, and nobody waited for it.",
        "return a, back_b.wait() => return back_b.wait(), a": "b came back first. a "
        "and b are returned in the order in which they came.",
        "return a, back_b.wait() => return a, a": "a was returned twice, and b is "
        "still under way.",
        "a = back_a.wait()\n    return a, back_b.wait() => "
        "a, last = back_a.wait(), a\n    return last, back_b.wait()": "a was returned "
        "as it left its experts. What it gets from the others came with the last "
        "wait().",
    },
)

timed_run = task_5_6.asks(
    "on 4 ranks: the plain order's numbers, and 90 % of the all-to-all time is hidden",
    Probe(
        on_ranks,
        "8 layers on the scaled twin, compute : communication 1 : 1",
    ),
    otherwise="Between each start and its wait there should be a part of the other "
    "micro-batch, as long as the trip; and what is ready should be sent at once.",
)
