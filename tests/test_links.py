"""Links: what collectives take, by hand and by closed form, and ports that are busy."""

from dataclasses import replace
from math import ceil, log2

import pytest
from toy_machine import TOY

from tiny_lm.replay.links import Links, ring, tree
from tiny_lm.replay.prices import Prices
from tiny_lm.replay.tape import Collective

ONE_NODE = replace(TOY, gpus_per_node=64)
ALPHA, BETA = 7, 10  # inside a node
FAR_ALPHA, FAR_BETA = 30, 100  # between nodes


def calls(kind, rows, group=None, root=None):
    """One call of all ranks; rows: what each of them has in its record."""
    group = group or tuple(range(len(rows)))
    return {
        rank: Collective(kind, kind, row, group, 0, root=root)
        for rank, row in zip(group, rows, strict=True)
    }


def same(kind, num_ranks, *num_bytes, root=None):
    return calls(kind, [num_bytes] * num_ranks, root=root)


def duration(machine, made, ready=0, **options):
    return take(Links(Prices(machine), made, **options), made, ready) - ready


def take(links, made, ready):
    return links.take(links.plan(made), ready)


@pytest.mark.parametrize("p", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("n", [64, 1000])
def test_collectives_in_a_node_take_their_closed_forms(p, n):
    def takes(kind, *num_bytes, **options):
        root = 0 if kind in ("broadcast", "reduce") else None
        made = same(kind, p, *num_bytes, root=root)
        return duration(ONE_NODE, made, ready=13, **options)

    part, rounds = ceil(n / p), ceil(log2(p))
    assert takes("all_reduce", n) == 2 * (p - 1) * (ALPHA + part * BETA)
    assert takes("all_reduce", n, all_reduce="tree") == 2 * rounds * (ALPHA + n * BETA)
    assert takes("all_gather", n) == (p - 1) * (ALPHA + n * BETA)
    assert takes("reduce_scatter", n) == (p - 1) * (ALPHA + part * BETA)
    assert takes("broadcast", n) == rounds * (ALPHA + n * BETA)
    assert takes("reduce", n) == rounds * (ALPHA + n * BETA)
    assert takes("barrier") == 2 * rounds * ALPHA
    assert takes("all_to_all", *[n] * p) == ALPHA + (p - 1) * n * BETA


def test_in_the_limit_of_many_bytes_a_ring_is_limited_by_bandwidth_and_a_tree_is_not():
    n, p = 10**9, 64
    ring_ps = duration(ONE_NODE, same("all_reduce", p, n))
    tree_ps = duration(ONE_NODE, same("all_reduce", p, n), all_reduce="tree")
    assert ring_ps == pytest.approx(2 * n * BETA * (p - 1) / p, rel=1e-6)
    assert tree_ps / ring_ps == pytest.approx(6, rel=0.02)
    small = [duration(ONE_NODE, same("all_reduce", p, 1), all_reduce=a) for a in RT]
    assert small[1] < small[0] / 10


RT = ("ring", "tree")


def test_an_all_to_all_in_one_node_takes_the_busiest_port():
    rows = [(0, 1, 2, 3), (1, 0, 1, 1), (1, 1, 9, 1), (0, 0, 0, 0)]
    assert duration(ONE_NODE, calls("all_to_all", rows)) == 7 + 6 * 10  # rank 0 sends
    hot = [(0, 5, 0, 0), (0, 0, 0, 0), (0, 5, 0, 0), (0, 5, 0, 0)]
    assert duration(ONE_NODE, calls("all_to_all", hot)) == 7 + 15 * 10  # 1 receives


def test_an_all_to_all_over_two_nodes_takes_the_slower_of_the_two_links():
    """Rank 0 sends 50 bytes to its neighbour and 3 + 2 into the other node."""
    rows = [(0, 50, 3, 2), (0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0)]
    assert duration(TOY, calls("all_to_all", rows)) == 30 + max(50 * 10, 5 * 100)
    rows[0] = (0, 51, 3, 2)
    assert duration(TOY, calls("all_to_all", rows)) == 30 + 510


def test_in_series_an_all_to_all_passes_the_network_and_then_nvlink():
    """As above, but nothing is handed on before all has come in; two messages."""
    rows = [(0, 50, 3, 2), (0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0)]
    made = calls("all_to_all", rows)
    assert duration(TOY, made, hops="series") == (30 + 5 * 100) + (7 + 50 * 10)
    links = Links(Prices(TOY), made, hops="series")
    take(links, made, 0)
    for target in (1, 2):  # both of its ports are kept to the end
        assert links.message(0, target, 1, 0)[0] == 1037


def test_an_exchange_of_one_hop_is_the_same_either_way():
    for rows in ([(0, 5, 0, 0), (1, 0, 0, 0)], [(0, 0, 5, 1), (0, 0, 0, 0)]):
        made = calls("all_to_all", [*rows, (0,) * 4, (0,) * 4])
        assert duration(TOY, made, hops="series") == duration(TOY, made)
    near = calls("all_to_all", [(0, 1, 2, 3)] * 4)
    assert duration(ONE_NODE, near, hops="series") == duration(ONE_NODE, near)


def test_a_ring_over_two_nodes_goes_at_the_pace_of_the_network():
    made = same("all_reduce", 4, 16)
    assert duration(TOY, made) == 2 * 3 * (FAR_ALPHA + 4 * FAR_BETA)


def test_a_tree_over_two_nodes_crosses_the_network_once_each_way():
    made = same("all_reduce", 4, 16)
    one_way = (FAR_ALPHA + 16 * FAR_BETA) + (ALPHA + 16 * BETA)
    assert duration(TOY, made, all_reduce="tree") == 2 * one_way
    assert duration(TOY, same("broadcast", 4, 16, root=0)) == one_way


def test_a_group_of_one_takes_no_time():
    for kind in ("all_reduce", "all_to_all", "all_gather", "reduce_scatter"):
        assert duration(TOY, same(kind, 1, 99), ready=5) == 0


def test_an_all_to_all_of_nothing_still_takes_a_message():
    assert duration(ONE_NODE, same("all_to_all", 4, 0, 0, 0, 0)) == ALPHA


def test_a_ring_follows_the_order_of_the_group():
    """0 and 1 share a node, 2 and 3 another: every hop of 0 2 1 3 crosses."""
    assert ring((0, 2, 1, 3)) == [(0, 2), (2, 1), (1, 3), (3, 0)]
    inside = duration(TOY, calls("all_gather", [(4,)] * 2, group=(0, 1)))
    across = duration(TOY, calls("all_gather", [(4,)] * 2, group=(1, 2)))
    assert (inside, across) == (7 + 40, 30 + 400)


def test_a_tree_reaches_everybody_once_from_any_root():
    assert tree((0, 1, 2, 3), 0) == [[(0, 2)], [(0, 1), (2, 3)]]
    assert tree((4, 5, 6), 5) == [[(5, 4)], [(5, 6)]]
    for size in range(1, 20):
        for root in (0, size - 1):
            has = {root}
            for hops in tree(tuple(range(size)), root):
                assert {here for here, _ in hops} <= has
                new = [there for _, there in hops]
                assert not has.intersection(new) and len(set(new)) == len(new)
                has.update(new)
            assert has == set(range(size))


def test_the_root_of_a_broadcast_says_which_ports_are_taken():
    for root, busy in ((0, 0), (1, 1)):
        links = Links(Prices(ONE_NODE), range(2))
        take(links, same("broadcast", 2, 10, root=root), 0)
        assert links.message(busy, 2, 1, 0)[0] == 107  # its sending port
        assert links.message(1 - busy, 3, 1, 0)[0] == 0


def test_a_reduce_takes_the_ports_of_a_broadcast_the_other_way_round():
    links = Links(Prices(ONE_NODE), range(2))
    take(links, same("reduce", 2, 10, root=0), 0)
    assert links.message(1, 2, 1, 0)[0] == 107
    assert links.message(0, 3, 1, 0)[0] == 0


def test_a_message_takes_alpha_and_its_bytes_and_keeps_the_port_for_the_bytes():
    links = Links(Prices(TOY), range(4))
    assert links.message(0, 1, 4, 100) == (100, 140, 147)
    assert links.message(0, 2, 4, 100) == (100, 500, 530)  # another port of rank 0
    assert links.message(0, 1, 1, 100) == (140, 150, 157)  # behind the first
    assert links.message(3, 2, 1, 100) == (100, 110, 117)  # another port of rank 2
    assert links.message(1, 2, 1, 100) == (500, 600, 630)  # receives from rank 0
    assert links.message(1, 0, 1, 100) == (100, 110, 117)  # the other direction is free


def test_a_collective_waits_for_busy_ports():
    links = Links(Prices(ONE_NODE), range(4))
    links.message(0, 1, 10, 0)  # until 100
    rows = [(0, 0, 2, 0), (0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 0)]
    assert take(links, calls("all_to_all", rows), 50) == 100 + 20 + 7
    ringing = same("all_reduce", 4, 4)
    assert take(links, ringing, 0) == 120 + 6 * (7 + 10)


def test_ports_of_an_all_to_all_are_free_as_soon_as_each_is_through():
    links = Links(Prices(ONE_NODE), range(2))
    take(links, calls("all_to_all", [(0, 10), (2, 0)]), 0)
    assert links.message(0, 2, 1, 0)[0] == 100
    assert links.message(1, 3, 1, 0)[0] == 20


def test_a_rank_without_a_tape_sends_back_what_it_gets():
    """Rank 0 alone stands for 4 equal ranks: same time as with all tapes."""
    made = calls("all_to_all", [(0, 5, 6, 6), (5, 0, 6, 6), (6, 6, 0, 5), (6, 6, 5, 0)])
    alone = {0: made[0]}
    assert duration(TOY, alone) == duration(TOY, made) == 30 + 1200
    links = Links(Prices(TOY), alone)
    take(links, alone, 0)
    assert links.message(2, 0, 1, 0)[0] == 1200  # its receiving port was busy too


def test_ports_of_a_rank_without_a_tape_are_not_kept():
    """Rank 1 stands for others: what it does with 0 is no trouble of 2's."""
    links = Links(Prices(ONE_NODE), (0, 2))
    one, other = same("reduce", 2, 10, root=0), calls("reduce", [(10,)] * 2, (2, 1), 2)
    assert take(links, {0: one[0]}, 0) == 107
    assert take(links, {2: other[2]}, 0) == 107


def test_rounds_of_thousands_of_ranks_are_planned_at_once():
    made = same("all_reduce", 2048, 2048 * 3)
    assert duration(TOY, made) == 2 * 2047 * (FAR_ALPHA + 3 * FAR_BETA)
