"""Closed forms of α and β: equal to replay, and to what is published of decoding."""

from dataclasses import replace

import pytest

from tiny_lm.hardware import machine
from tiny_lm.parallel.link_costs import (
    PUBLISHED_COPY_BYTES,
    Link,
    all_reduce_s,
    decode_floor,
)
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Collective, Tape

LINK = Link("NVLink", 160e9, 3.33e-6)


def test_a_message_by_hand():
    link = Link("hand", 1e9, 2e-6)
    assert link.message_s(3000) == pytest.approx(5e-6)
    assert link.even_bytes == pytest.approx(2000)
    assert all_reduce_s("ring", 4000, 4, link) == pytest.approx(6 * 3e-6)
    assert all_reduce_s("tree", 4000, 4, link) == pytest.approx(4 * 6e-6)
    assert all_reduce_s("straight", 4000, 4, link) == pytest.approx(2 * 5e-6)


@pytest.mark.parametrize("way", ["ring", "tree"])
@pytest.mark.parametrize("num_bytes", [64, 2**22])
def test_replay_takes_as_long(way, num_bytes):
    group = tuple(range(8))
    call = Collective("sum", "all_reduce", (num_bytes,), group, 0)
    timeline = replay(
        [Tape(rank, (call,)) for rank in group],
        replace(machine("h800"), launch_s=0.0),
        all_reduce=way,
    )
    wanted = all_reduce_s(way, num_bytes, 8, LINK)
    assert timeline.step_ps / 1e12 == pytest.approx(wanted, rel=1e-6)


def test_the_published_floor_of_decoding():
    slow, fast = Link("card", 50e9, 3.7e-6), Link("wide", 900e9, 3.33e-6)
    floor = decode_floor(PUBLISHED_COPY_BYTES, slow)
    assert floor.exchange_s == pytest.approx(120.96e-6)
    assert floor.token_s == pytest.approx(14.76e-3, rel=1e-3)
    assert round(floor.tokens_per_s) == 68  # printed as 67
    floor = decode_floor(PUBLISHED_COPY_BYTES, fast)
    assert floor.exchange_s == pytest.approx(6.72e-6)
    assert floor.token_s == pytest.approx(0.82e-3, rel=1e-3)


def test_latency_and_a_second_hop_come_on_top():
    card = Link("card", 50e9, 3.7e-6)
    bare = decode_floor(21_000, card).exchange_s
    assert decode_floor(21_000, card, latency=True).exchange_s == pytest.approx(
        bare + 7.4e-6
    )
    both = decode_floor(21_000, card, latency=True, second=LINK).exchange_s
    assert both == pytest.approx(bare + 7.4e-6 + 32 * 9 * 21_000 / 160e9 + 6.66e-6)


def test_another_way_is_refused():
    with pytest.raises(ValueError, match="way must be one of ring, tree, straight"):
        all_reduce_s("star", 1, 2, LINK)
