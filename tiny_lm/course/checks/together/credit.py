"""Task 6.4: a technique's credit that no order can change.

Chapter: 06_together/full_model
Source: course
"""

from itertools import permutations, product
from math import factorial

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, drawn, in_double, probe
from tiny_lm.course.checks.task import Task
from tiny_lm.course.checks.together.along import along


def credit(cost: Float[Tensor, "..."]) -> Float[Tensor, " n"]:
    """The geometric mean of each technique's factor over all orders."""
    orders = list(permutations(range(cost.dim())))
    logs = [along(cost, order).log() for order in orders]
    return torch.stack(logs).mean(dim=0).exp()


task_6_4 = Task(
    id="6.4",
    lab="06_together",
    title="Credit in any order",
    name="credit",
    piece="together.credit",
    difficulty=3,
    minutes=15,
    points=3,
    reference=credit,
    returns=("credits",),
    errors={
        "can't convert": "`math.log` and `math.exp` take one number. A tensor has "
        "methods of its own, `.log()` and `.exp()`.",
        "only one element tensors": "`math.log` and `math.exp` take one number. A "
        "tensor has methods of its own, `.log()` and `.exp()`.",
        "expected tensor as element": "stack takes a list of tensors. `along` gives a "
        "tensor for each order: collect those.",
    },
    hints=(
        """
        With two techniques there are two orders, 0 before 1 and 1 before 0, and each
        gives every technique a factor. Which mean of factors fits things that multiply?
        """,
        """
        itertools.permutations(range(n)) gives all orders. A geometric mean of m numbers
        is the m-th root of their product; by logarithms, the ordinary mean of the logs,
        and then exp.
        """,
        """
        Stack along(cost, order).log() for every order of
        permutations(range(cost.dim())), take the mean over dim 0, and then .exp().
        """,
    ),
)

LOGS = "along(cost, order).log()"
END = "torch.stack(logs).mean(dim=0).exp()"
ORDERS = "list(permutations(range(cost.dim())))"
GIVEN = (
    "Only one order was walked, from the first technique to the last. Whoever stands "
    "early in it gets credit for that."
)
ORDINARY = (
    "This is the ordinary mean of the factors. Their product is then no longer the "
    "whole saving; the geometric mean keeps it."
)

task_6_4.asks(
    "two techniques, and what each does as the first and as the second",
    case(
        [[64.0, 16.0], [32.0, 2.0]],
        note="the first: 2 alone, 8 after the second. The second: 4, or 16",
    ),
    otherwise="With two techniques each has two factors, and the credit is the root of "
    "their product.",
    mistakes={
        f"{LOGS} => along(cost, order) ;; {END} => torch.stack(logs).mean(dim=0)": (
            ORDINARY
        ),
        f"{LOGS} => 1 / along(cost, order) ;; {END} => "
        "1 / torch.stack(logs).mean(dim=0)": "This is the harmonic mean: the mean of "
        "what is *left* of the cost. The geometric mean keeps the product.",
        f"{ORDERS} => [tuple(range(cost.dim()))]": GIVEN,
        f"{ORDERS} => [tuple(range(cost.dim()))[::-1]]": "Only one order was walked, "
        "from the last technique to the first.",
        f"{END} => torch.stack(logs).mean(dim=0)": "These are logarithms. exp leads "
        "back to factors.",
        f"{END} => torch.stack(logs).sum(dim=0).exp()": "This is the product over all "
        "orders. A geometric mean takes its root: one over the number of orders.",
        f"{END} => torch.stack(logs).sum(dim=0).exp() / len(logs)": "The product over "
        "all orders was divided by their number. A geometric mean takes the *root*.",
        f"{LOGS} => along(cost, order) ;; {END} => torch.stack([cost.flatten()[0] / "
        "cost[tuple(int(s == t) for s in range(cost.dim()))] for t in "
        "range(cost.dim())])": "This is what each technique does alone. In other "
        "orders it comes later.",
        f"{LOGS} => along(cost, order) ;; {END} => torch.stack([cost[tuple(int(s != t) "
        "for s in range(cost.dim()))] / cost.flatten()[-1] for t in "
        "range(cost.dim())])": "This is what each technique does as the last. In other "
        "orders it comes earlier.",
        f"{LOGS} => along(cost, order).log2()": "The logarithm has another base than "
        "exp, which leads back from the natural one.",
        f"{END} => torch.stack(logs).amax(dim=0).exp()": "This is each technique's "
        "best order. Not all can have the best place at once, so the credits multiply "
        "to too much.",
        f"{END} => torch.stack(logs).amin(dim=0).exp()": "This is each technique's "
        "worst order.",
        "mean(dim=0) => mean(dim=1)": "The mean runs over the techniques of an order. "
        "It runs over the orders, for each technique.",
        "mean(dim=0).exp() => mean().exp().expand(cost.dim())": "All techniques got "
        "the same. The mean runs over the orders, for each technique.",
    },
)


def _costs(generator: Generator, n: int) -> Tensor:
    return 1 + 9 * torch.rand((2,) * n, generator=generator)


def _savings(generator: Generator, n: int) -> Tensor:
    """Costs that fall with every technique, in any order."""
    switches = torch.tensor([*product((0, 1), repeat=n)]).sum(1).view((2,) * n)
    return (1 + torch.rand((2,) * n, generator=generator)) * 0.4**switches


@probe("the credits of four techniques, multiplied, beside cost[none] / cost[all]")
def product_of_all(answer, generator):
    cost = _savings(generator, 4)
    whole = cost.flatten()[0] / cost.flatten()[-1]
    return {"product": answer(cost).double().prod() / whole}


HALVES = (
    "Each technique's factor as the first and as the last were averaged, and the "
    "places between were left out. Two techniques have none; three have some."
)

several = task_6_4.asks(
    "multiplied, the credits are the whole saving",
    product_of_all,
    case(
        [[[64.0, 16.0], [32.0, 4.0]], [[16.0, 8.0], [8.0, 1.0]]],
        note="three techniques have six orders",
    ),
    otherwise="Over *all* orders the product is kept in each, so it is kept in their "
    "mean. Were some left out, or counted with another weight?",
    mistakes={
        f"{ORDERS} => list(permutations(range(cost.dim())))"
        "[:: max(factorial(cost.dim()) - 1, 1)]": "Two orders were walked: the first "
        "and the one from the end. With three techniques there are six.",
        f"{ORDERS} => [tuple((t + s) % cost.dim() for t in range(cost.dim())) for s in "
        "range(cost.dim())]": "Each technique was the first once, and the others "
        "followed in a circle. There are more orders than that: n!, not n.",
    },
)


@several.mistake(
    "A square root was taken of the product over all orders. That fits two orders; "
    "three techniques have six."
)
def square_root(cost):
    orders = permutations(range(cost.dim()))
    return torch.stack([along(cost, order) for order in orders]).prod(0).sqrt()


@several.mistake(
    "The root was taken by the number of techniques. It goes by the number of orders, "
    "and three techniques have six."
)
def root_by_techniques(cost):
    orders = permutations(range(cost.dim()))
    whole = torch.stack([along(cost, order) for order in orders]).prod(0)
    return whole ** (1 / cost.dim())


@several.mistake(HALVES)
def first_and_last_alone(cost):
    n, found = cost.dim(), []
    for t in range(n):
        others = [s for s in range(n) if s != t]
        first, last = along(cost, (t, *others))[t], along(cost, (*others, t))[t]
        found.append((first * last).sqrt())
    return torch.stack(found)


@several.mistake(
    "Every combination of the other techniques got the same weight. In orders they do "
    "not come up equally often: being the first, or the last, is likelier than any one "
    "place between."
)
def every_subset_alike(cost):
    n, found = cost.dim(), []
    for t in range(n):
        logs = []
        for others in product((0, 1), repeat=n - 1):
            off, on = (others[:t] + (b,) + others[t:] for b in (0, 1))
            logs.append((cost[off] / cost[on]).log())
        found.append(torch.stack(logs).mean().exp())
    return torch.stack(found)


task_6_4.asks(
    "what changes nothing gets 1, and what harms gets less",
    case(
        [[[12.0, 12.0], [6.0, 6.0]], [[4.0, 4.0], [3.0, 3.0]]],
        note="the third changes nothing",
    ),
    case([[10.0, 20.0], [5.0, 8.0]], note="the second makes it dearer, either way"),
    case([[10.0, 20.0], [9.0, 3.0]], note="the second harms alone and helps behind"),
    case([8.0, 2.0], note="one technique, one order"),
    mistakes={
        f"{END} => torch.stack(logs).mean(dim=0).exp().clamp(min=1)": "A credit below "
        "1 was cut off. What makes a run dearer is to be seen, too.",
        f"{LOGS} => along(cost, order).log().abs()": "The sign of a logarithm says "
        "whether the cost falls or rises, and it was dropped.",
        f"{LOGS} => along(cost, order).clamp(min=1).log()": "Factors below 1 were cut "
        "off before the mean. An order in which a technique harms counts as well.",
    },
)


task_6_4.asks(
    "equals the definition for one to five techniques",
    *(drawn(lambda g, n=n: (_costs(g, n),)) for n in (1, 2, 3, 4, 5)),
    in_double(drawn(lambda g: (_costs(g, 4),))),
)


@task_6_4.accepts
def by_subsets_and_their_weights(cost):
    n = cost.dim()
    logs = cost.double().log()
    found = torch.zeros(n, dtype=torch.float64)
    for t in range(n):
        for others in product((0, 1), repeat=n - 1):
            s = sum(others)
            weight = factorial(s) * factorial(n - 1 - s) / factorial(n)
            found[t] += weight * (
                logs[others[:t] + (0,) + others[t:]]
                - logs[others[:t] + (1,) + others[t:]]
            )
    return found.exp()


@task_6_4.accepts
def by_products_and_a_root(cost):
    total, count = torch.ones(cost.dim(), dtype=torch.float64), 0
    for order in permutations(range(cost.dim())):
        total *= along(cost, order).double()
        count += 1
    return total ** (1 / count)
