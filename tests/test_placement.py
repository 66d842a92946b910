"""Placement of experts: by hand, and against every other placement there is."""

import random
from itertools import combinations, product

import pytest

from tiny_lm.parallel.placement import (
    busiest_over_mean,
    contiguous,
    copies_of,
    greedy,
    rank_loads,
)

LOADS = [6, 1, 1, 0, 2, 2, 3, 1]  # of eight experts


def every_placement(experts: tuple[int, ...], num_ranks: int):
    """All ways to share out experts evenly; which rank is which does not matter."""
    if not experts:
        yield []
        return
    first, *rest = experts
    for others in combinations(rest, len(experts) // num_ranks - 1):
        left = tuple(e for e in rest if e not in others)
        for placement in every_placement(left, num_ranks - 1):
            yield [[first, *others], *placement]


def drawn(count: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [int(draw.expovariate(1 / 100)) for _ in range(count)]


def test_neighbours_share_a_rank_and_the_first_pair_is_waited_for():
    placement = contiguous(8, 4)
    assert placement == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert rank_loads(LOADS, placement) == [7, 1, 4, 4]
    assert busiest_over_mean(LOADS, placement) == 7 / 4


def test_greedy_puts_the_busiest_beside_the_idlest():
    placement = greedy(LOADS, 4)
    assert placement == [[0, 3], [6, 7], [4, 1], [5, 2]]
    assert rank_loads(LOADS, placement) == [6, 4, 3, 3]


def test_a_copy_takes_half_of_the_busiest_expert_s_load():
    assert copies_of(LOADS, 4) == [4, 1, 1, 1, 1, 1, 2, 1]
    placement = greedy(LOADS, 4, num_redundant=4)
    assert all(len(held) == 3 for held in placement)
    assert sum(rank_loads(LOADS, placement)) == pytest.approx(sum(LOADS))
    assert busiest_over_mean(LOADS, placement) == pytest.approx(4.5 / 4)


@pytest.mark.parametrize("seed", range(10))
def test_no_even_placement_beats_greedy_by_much(seed):
    loads = drawn(8, seed)
    best = min(
        busiest_over_mean(loads, placement)
        for placement in every_placement(tuple(range(8)), 4)
    )
    assert best <= busiest_over_mean(loads, greedy(loads, 4)) <= 1.1 * best


@pytest.mark.parametrize("seed", range(5))
def test_no_other_copies_have_a_less_busy_copy(seed):
    loads, extra = drawn(5, seed), 4
    ways = (c for c in product(range(1, 6), repeat=5) if sum(c) == 5 + extra)
    best = min(
        max(load / n for load, n in zip(loads, copies, strict=True)) for copies in ways
    )
    copies = copies_of(loads, extra)
    assert sum(copies) == 5 + extra
    assert max(load / n for load, n in zip(loads, copies, strict=True)) == best


def test_experts_stay_in_their_node():
    placement = greedy(LOADS, 4, num_redundant=4, num_nodes=2)
    for held in placement[:2]:
        assert set(held) <= {0, 1, 2, 3}
    for held in placement[2:]:
        assert set(held) <= {4, 5, 6, 7}
    assert {e for held in placement for e in held} == set(range(8))


def test_copies_of_an_expert_go_to_different_ranks():
    for held in greedy([100, 1, 1, 1], 4, num_redundant=4):
        assert held.count(0) == 1


def test_an_idle_model_is_even():
    assert busiest_over_mean([0, 0], [[0], [1]]) == 1.0


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: contiguous(8, 3), "3 ranks cannot share 8 experts and copies evenly"),
        (lambda: greedy(LOADS, 4, 2), "4 ranks cannot share 10 experts and copies"),
        (lambda: greedy(LOADS, 4, 3, 2), "2 nodes cannot share 3 copies evenly"),
        (lambda: greedy(LOADS[:7], 4, 0, 2), "2 nodes cannot share 7 experts evenly"),
        (lambda: greedy(LOADS, 3, 0, 2), "3 ranks do not make 2 equal nodes"),
        (lambda: copies_of([3, 1], 3, 2), "3 copies of 2 experts are more than 1 each"),
        (lambda: rank_loads(LOADS, [[0, 1], [2, 3]]), "no rank holds expert 4"),
    ],
)
def test_what_does_not_divide_is_refused(work, message):
    with pytest.raises(ValueError, match=message):
        work()
