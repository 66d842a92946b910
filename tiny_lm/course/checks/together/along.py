"""Task 6.3: by how much each technique cuts the cost when they come one by one.

Chapter: 06_together/full_model
Source: course
"""

from itertools import product

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, drawn, in_double
from tiny_lm.course.checks.task import Task


def along(cost: Float[Tensor, "..."], order: tuple[int, ...]) -> Float[Tensor, " n"]:
    """Cost before / cost after, by technique, where they are switched on in order."""
    on = [0] * cost.dim()
    factors = torch.ones(cost.dim())
    for technique in order:
        before = cost[tuple(on)]
        on[technique] = 1
        factors[technique] = before / cost[tuple(on)]
    return factors


task_6_3 = Task(
    id="6.3",
    lab="06_together",
    title="One by one",
    name="along",
    piece="together.along",
    difficulty=2,
    minutes=12,
    points=2,
    reference=along,
    returns=("factors",),
    errors={
        "too many indices": "`cost` has one dim for each technique, and `order` names "
        "each once. Is the list of switches as long as that?",
        "only integer tensors of a single element": "A list between the brackets picks "
        "several rows. One entry is found by a tuple, `cost[tuple(on)]`.",
        "expand(torch": "A list between the brackets picks whole rows. "
        "One entry is found by a tuple, `cost[tuple(on)]`.",
        "can only convert": "A list between the brackets picks whole rows. One entry "
        "is found by a tuple, `cost[tuple(on)]`.",
    },
    hints=(
        """
        Keep a list of switches, all 0 at first. It says where in `cost` you stand.
        What does a technique change in that list, and what stands there then?
        """,
        """
        `cost[tuple(on)]` is the cost with the switches as they are. For each technique
        of the order: look up the cost, set its switch to 1, look up again, divide the
        first by the second. The factor belongs to the technique, wherever it comes.
        """,
        """
        on = [0] * cost.dim(); factors = torch.ones(cost.dim()). For technique in order:
        before = cost[tuple(on)], then on[technique] = 1, then factors[technique] =
        before / cost[tuple(on)].
        """,
    ),
)

AFTER = "factors[technique] = before / cost[tuple(on)]"
FROM_START = (
    "Every technique is measured against the cost with none. Its factor is what it "
    "changes when those before it in the order are on already."
)

task_6_3.asks(
    "what each changes, with those before it switched on",
    case(
        [[120.0, 60.0], [40.0, 10.0]],
        (0, 1),
        note="none 120, then the first 40, then both 10",
    ),
    case([[[96.0, 8.0], [32.0, 8.0]], [[48.0, 4.0], [24.0, 2.0]]], (0, 1, 2)),
    otherwise="The cost before a technique is switched on, divided by that after it, "
    "with all that come earlier in the order on.",
    mistakes={
        f"{AFTER} => factors[technique] = cost.flatten()[0] / cost[tuple(on)]": "The "
        "cost with none is divided by the cost so far, so all that came before counts "
        "again. Wanted is what this technique changes.",
        f"{AFTER} => alone = [0] * cost.dim(); alone[technique] = 1; "
        "factors[technique] = cost.flatten()[0] / cost[tuple(alone)]": FROM_START,
        f"{AFTER} => without = [1] * cost.dim(); without[technique] = 0; "
        "factors[technique] = cost[tuple(without)] / cost.flatten()[-1]": "Each is "
        "measured by what its absence costs, with all others on. In an order, only "
        "those before it are on.",
        f"{AFTER} => factors[technique] = cost[tuple(on)] / before": "This is upside "
        "down: after / before. A technique that halves the cost has the factor 2.",
        f"{AFTER} => factors[technique] = before - cost[tuple(on)]": "This is a "
        "difference. Factors say by how many times the cost gets less, and multiply to "
        "the whole.",
        f"{AFTER} => factors[technique] = 1 - cost[tuple(on)] / before": "This is the "
        "share that is saved. A factor is before / after.",
        f"{AFTER} => factors[technique] = (before - cost[tuple(on)]) / "
        "cost.flatten()[0]": "This is a share of the first cost. A factor is before / "
        "after.",
        "on[technique] = 1\n => on = [0] * cost.dim(); on[technique] = 1\n": "The "
        "switches of the earlier techniques went off again. They stay on.",
        "for technique in order => for technique in reversed(order)": "This is the "
        "order from its end.",
        "torch.ones(cost.dim()) => torch.ones(4)": "Four techniques stand there as a "
        "number. `cost.dim()` says how many.",
        "before = cost[tuple(on)]\n    => \n    ;; on[technique] = 1 => "
        "on[technique] = 1; before = cost[tuple(on)]": "Both costs were looked up "
        "after the switch was set, so they are the same.",
        f"{AFTER} => factors[technique] = 100 * (before / cost[tuple(on)] - 1)": "This "
        "is in per cent. A technique that halves the cost has the factor 2.",
        "factors = torch.ones => factors = torch.zeros ;; "
        f"{AFTER} => factors[technique] = before": "These are costs. A factor is the "
        "cost before divided by that after.",
    },
)

task_6_3.asks(
    "each factor stands at its technique, in whatever order they come",
    case(
        [[120.0, 60.0], [40.0, 10.0]],
        (1, 0),
        note="none 120, then the second 60, then both 10",
    ),
    case([[[96.0, 8.0], [32.0, 8.0]], [[48.0, 4.0], [24.0, 2.0]]], (2, 0, 1)),
    mistakes={
        "factors[technique] = => factors[sum(on) - 1] =": "The factors stand in the "
        "order in which the techniques came. Factor t is that of technique t, so that "
        "two orders can be compared.",
        "for technique in order => for technique in range(cost.dim())": "`order` was "
        "not used: this is what comes "
        "out for 0, 1, 2 and so on.",
        "on[technique] = 1 => on[sum(on)] = 1": "The switches go on from the first to "
        "the last. `order` says which is next.",
    },
)

task_6_3.asks(
    "a technique that does not pay has a factor below 1",
    case([[10.0, 20.0], [8.0, 12.0]], (0, 1), note="the second makes it dearer"),
    case([5.0, 5.0], (0,), note="one technique, and it changes nothing"),
    mistakes={
        f"{AFTER} => factors[technique] = max(before / cost[tuple(on)], "
        "torch.ones_like(before))": "A factor below 1 was cut off. What makes a run "
        "dearer is to be seen, too.",
        f"{AFTER} => factors[technique] = max(before, cost[tuple(on)]) / "
        "min(before, cost[tuple(on)])": "The larger was divided by the smaller. "
        "Whether it got cheaper or dearer cannot be seen.",
        f"{AFTER} => factors[technique] = before // cost[tuple(on)]": "`//` drops the "
        "fraction.",
    },
)


def _costs(generator: Generator, n: int) -> Tensor:
    return 1 + 9 * torch.rand((2,) * n, generator=generator)


def _any(generator: Generator, n: int) -> tuple[Tensor, tuple[int, ...]]:
    order = torch.randperm(n, generator=generator).tolist()
    return _costs(generator, n), tuple(order)


task_6_3.asks(
    "equals the definition for one to five techniques, in any order",
    *(drawn(lambda g, n=n: _any(g, n)) for n in (1, 2, 3, 4, 5)),
    in_double(drawn(lambda g: _any(g, 4))),
)


@task_6_3.accepts
def with_the_costs_first(cost, order):
    path = [
        tuple(int(t in order[:n]) for t in range(cost.dim()))
        for n in range(len(order) + 1)
    ]
    steps = {
        t: cost[path[n]].item() / cost[path[n + 1]].item() for n, t in enumerate(order)
    }
    return torch.tensor([steps[t] for t in range(cost.dim())], dtype=torch.float64)


@task_6_3.accepts
def by_narrowing(cost, order):
    left, names = cost, list(range(cost.dim()))
    found = [None] * cost.dim()
    for technique in order:
        place = names.index(technique)
        corner = (0,) * left.dim()
        on = left.select(place, 1)
        found[technique] = left[corner] / (on[(0,) * on.dim()])
        left = on
        names.pop(place)
    return torch.stack(found)


@task_6_3.accepts
def by_a_dictionary(cost, order):
    costs = {on: cost[on].item() for on in product((0, 1), repeat=cost.dim())}
    on, factors = (0,) * cost.dim(), {}
    for t in order:
        new = on[:t] + (1,) + on[t + 1 :]
        factors[t] = costs[on] / costs[new]
        on = new
    return torch.tensor([factors[t] for t in sorted(factors)]).double()
