"""Replay: timelines worked out by hand, and the same bytes whatever the order."""

import hashlib
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from toy_machine import TOY

from tiny_lm.hardware import machine
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Collective, Kernel, Mark, Receive, Send, Tape, Wait

PAIR = (0, 1)


def kernel(name, flops, stream="compute"):
    """On the toy machine it takes 5 ps and then as many as it has FLOPs."""
    return Kernel(name, flops, 0, "bf16", stream)


def tapes(*records_by_rank):
    return [Tape(rank, tuple(rows)) for rank, rows in enumerate(records_by_rank)]


def spans(timeline):
    return [tuple(span) for span in timeline.spans]


def test_kernels_of_a_stream_run_one_after_the_other():
    timeline = replay(tapes([kernel("a", 10), kernel("b", 20)]), TOY)
    assert spans(timeline) == [
        (0, "compute", "a", 0, 15, "kernel"),
        (0, "compute", "b", 15, 40, "kernel"),
    ]
    assert timeline.step_ps == 40
    assert timeline.machine == "toy"


def test_streams_run_side_by_side_until_an_event_orders_them():
    """b waits for a although another stream runs it; c has nothing to wait for."""
    rows = [kernel("a", 10), Mark(1), Wait(1, "side"), kernel("b", 20, "side")]
    timeline = replay(tapes([*rows, kernel("c", 30)]), TOY)
    assert spans(timeline) == [
        (0, "compute", "a", 0, 15, "kernel"),
        (0, "compute", "c", 15, 50, "kernel"),
        (0, "side", "b", 15, 40, "kernel"),
    ]


def test_a_wait_may_stand_on_the_tape_before_its_mark():
    rows = [Wait(1, "side"), kernel("b", 20, "side"), kernel("a", 10), Mark(1)]
    assert replay(tapes(rows), TOY).step_ps == 15 + 25


def test_a_wait_for_what_has_happened_takes_no_time():
    rows = [kernel("a", 10), Mark(1), kernel("b", 90, "side"), Wait(1, "side")]
    assert replay(tapes(rows), TOY).step_ps == 95


def test_a_collective_starts_when_the_last_rank_arrives_and_ends_for_all():
    """Bytes 4 and 6 over NVLink: 7 + 60 from the later of 15 and 25."""
    both = [
        [kernel("a", 10, "comm"), Collective("x", "all_to_all", (9, 4), PAIR, 0)],
        [kernel("a", 20, "comm"), Collective("y", "all_to_all", (6, 9), PAIR, 0)],
    ]
    assert spans(replay(tapes(*both), TOY)) == [
        (0, "comm", "a", 0, 15, "kernel"),
        (0, "comm", "x", 15, 25, "wait"),
        (0, "comm", "x", 25, 92, "comm"),
        (1, "comm", "a", 0, 25, "kernel"),
        (1, "comm", "y", 25, 92, "comm"),
    ]


def layer(shared_flops, overlap):
    """Attention, dispatch, a shared expert beside it or before it, routed experts."""
    dispatch = Collective("dispatch", "all_to_all", (0, 10), PAIR, 0)
    moved = [Mark(0), Wait(0, "comm"), dispatch, Mark(1, "comm")]
    shared = [kernel("shared", shared_flops)]
    middle = [*moved, *shared] if overlap else [*shared, *moved]
    return [kernel("attention", 45), *middle, Wait(1), kernel("experts", 25)]


def test_a_dispatch_beside_the_shared_expert_is_hidden_by_hand():
    """Attention 50, dispatch 107, shared expert 65, routed experts 30 picoseconds."""
    rows = (layer(60, True), [*layer(60, True)])
    rows[1][3] = rows[1][3]._replace(num_bytes=(10, 0))
    timeline = replay(tapes(*rows), TOY)
    assert spans(timeline)[:4] == [
        (0, "comm", "dispatch", 50, 157, "comm"),
        (0, "compute", "attention", 0, 50, "kernel"),
        (0, "compute", "shared", 50, 115, "kernel"),
        (0, "compute", "experts", 157, 187, "kernel"),
    ]
    summary = timeline.summary()[0]
    assert tuple(summary) == (0, 50 + 65 + 30, 107, 157 - 115, 0)
    assert summary.hidden_ps == 65


def test_without_overlap_the_dispatch_is_exposed_whole():
    rows = (layer(60, False), [*layer(60, False)])
    rows[1][4] = rows[1][4]._replace(num_bytes=(10, 0))
    timeline = replay(tapes(*rows), TOY)
    assert timeline.step_ps == 50 + 65 + 107 + 30
    assert timeline.summary()[0].exposed_ps == 107


def test_a_message_by_hand():
    """10 bytes to the other node leave in 1000 ps and are there 30 later."""
    sender = [kernel("a", 10, "comm"), Send("x", 2, 10, 0), kernel("b", 10, "comm")]
    receiver = [kernel("c", 1, "comm"), Receive("x", 0, 10, 0)]
    assert spans(replay(tapes(sender, [], receiver), TOY)) == [
        (0, "comm", "a", 0, 15, "kernel"),
        (0, "comm", "x", 15, 1015, "comm"),
        (0, "comm", "b", 1015, 1030, "kernel"),
        (2, "comm", "c", 0, 6, "kernel"),
        (2, "comm", "x", 6, 15, "wait"),
        (2, "comm", "x", 15, 1045, "comm"),
    ]


def test_a_receive_posted_late_finds_its_message():
    late = [kernel("c", 500, "comm"), Receive("x", 0, 1, 0)]
    timeline = replay(tapes([Send("x", 1, 1, 0)], late), TOY)
    assert timeline.step_ps == 505
    assert len(timeline.of(1)) == 1


def test_transfers_take_a_port_in_the_order_in_which_they_are_ready():
    """Rank 1's tape comes first, but rank 2's message is ready first."""
    early = [kernel("a", 1, "comm"), Send("early", 3, 10, 0)]
    late = [kernel("a", 9, "comm"), Send("late", 3, 10, 0)]
    waits = [Receive("late", 1, 10, 0), Receive("early", 2, 10, 0, "other")]
    wide = replace(TOY, gpus_per_node=4)
    ended = {
        s.name: s.end_ps for s in replay(tapes([], late, early, waits), wide).of(3)
    }
    assert ended == {"early": 6 + 100 + 7, "late": 106 + 100 + 7}


def test_two_collectives_share_a_port_one_after_the_other():
    rows = [(0, 10), (10, 0)]
    both = [
        [
            Collective("one", "all_to_all", rows[rank], PAIR, 0, "comm"),
            Collective("two", "all_to_all", rows[rank], PAIR, 1, "more"),
        ]
        for rank in PAIR
    ]
    ended = {s.name: s.end_ps for s in replay(tapes(*both), TOY).of(0)}
    assert ended == {"one": 107, "two": 207}


def test_the_algorithm_of_an_all_reduce_is_an_argument():
    group = (0, 1, 2, 3)
    four = [[Collective("sum", "all_reduce", (16,), group, 0)] for _ in group]
    wide = replace(TOY, gpus_per_node=4)
    assert replay(tapes(*four), wide).step_ps == 2 * 3 * (7 + 40)
    assert replay(tapes(*four), wide, all_reduce="tree").step_ps == 2 * 2 * (7 + 160)
    with pytest.raises(ValueError, match="must be ring or tree, got 'star'"):
        replay(tapes(*four), wide, all_reduce="star")


def test_one_tape_stands_for_many_equal_ranks():
    group = tuple(range(8))

    def rank(number):
        far = tuple(3 if peer // 2 != number // 2 else 5 for peer in group)
        exchange = Collective("dispatch", "all_to_all", far, group, 0)
        return [kernel("a", 10, "comm"), exchange, kernel("b", 10, "comm")]

    whole = replay(tapes(*(rank(number) for number in group)), TOY)
    alone = replay(tapes(rank(0)), TOY, mirror=True)
    assert alone.spans == whole.of(0)
    with pytest.raises(ValueError, match="for rank 1, which has no tape"):
        replay(tapes(rank(0)), TOY)


def test_the_machine_decides_the_time():
    slow = replace(TOY, bf16_efficiency=0.5)
    assert replay(tapes([kernel("a", 10)]), slow).step_ps == 25


def test_a_figure_that_the_machine_lacks_is_refused():
    with pytest.raises(ValueError, match="nodes of 8 A100.* launch_s is not known"):
        replay(tapes([kernel("a", 10)]), machine("a100"))


def test_nothing_takes_no_time():
    assert replay([], TOY).step_ps == 0
    assert replay(tapes([], []), TOY).spans == ()


def test_calls_in_opposite_order_are_a_circle_that_is_named():
    one, two = (
        Collective(n, "barrier", (), g, 0) for n, g in (("a", PAIR), ("b", (1, 0)))
    )
    with pytest.raises(ValueError, match="in a circle") as caught:
        replay(tapes([one, two], [two, one]), TOY)
    assert str(caught.value).splitlines()[1:] == [
        "  rank 0, stream 'comm' waits in barrier 'a', call 0 of group (0, 1), "
        "for rank 1",
        "  rank 1, stream 'comm' waits in barrier 'b', call 0 of group (1, 0), "
        "for rank 0",
    ]


def test_events_and_messages_that_wait_for_each_other_are_named():
    one = [Wait(1), Mark(2), Wait(2, "comm"), Receive("x", 1, 1, 0), Mark(1, "comm")]
    other = [Receive("y", 0, 1, 0), Send("x", 0, 1, 0)]
    sends = [Wait(1, "out"), Send("y", 1, 1, 0, "out")]
    with pytest.raises(ValueError) as caught:
        replay(tapes([*one, *sends], other), TOY)
    text = str(caught.value)
    assert "rank 0, stream 'compute' waits for event 1" in text
    assert "rank 0, stream 'comm' waits for event 2" in text
    assert "rank 1, stream 'comm' waits for message 0 from rank 0" in text


def test_of_many_that_wait_eight_are_named():
    rows = [[Wait(1), Mark(1)] for _ in range(20)]
    with pytest.raises(ValueError, match="and 12 more streams"):
        replay(tapes(*rows), TOY)


def random_tapes(seed, num_ranks=6, num_layers=40):
    """Kernels, dispatches of uneven rows, sums and messages, drawn at random."""
    draw = random.Random(seed)
    group = tuple(range(num_ranks))
    rows = [[] for _ in group]
    for number in range(num_layers):
        num_bytes = draw.randrange(90)
        for rank in group:
            sizes = tuple(draw.randrange(50) for _ in group)
            rows[rank] += [
                kernel("work", draw.randrange(200)),
                Mark(2 * number),
                Wait(2 * number, "comm"),
                Collective("dispatch", "all_to_all", sizes, group, number),
                Mark(2 * number + 1, "comm"),
                kernel("shared", draw.randrange(200)),
                Wait(2 * number + 1),
                Send("on", (rank + 1) % num_ranks, num_bytes, number, "out"),
                Receive("on", (rank - 1) % num_ranks, num_bytes, number, "in"),
            ]
    return tapes(*rows)


def digest(timeline):
    return hashlib.sha256(json.dumps(timeline.spans).encode()).hexdigest()


def test_the_order_of_the_tapes_does_not_matter():
    made = random_tapes(0)
    wanted = digest(replay(made, TOY))
    for seed in range(5):
        random.Random(seed).shuffle(made)
        assert digest(replay(made, TOY)) == wanted


PROGRAM = """
from test_simulation import TOY, digest, random_tapes, replay
print(digest(replay(random_tapes(0), TOY)))
"""


def test_every_process_gives_the_same_bytes():
    here = Path(__file__).parent
    wanted = digest(replay(random_tapes(0), TOY))
    assert digest(replay(random_tapes(1), TOY)) != wanted
    for seed in ("1", "2"):
        paths = os.pathsep.join([str(here), str(here.parent)])
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        command = [sys.executable, "-c", PROGRAM]
        ran = subprocess.run(command, env=env, capture_output=True, text=True)
        assert ran.stdout.strip() == wanted, ran.stderr


def test_the_timeline_of_a_known_step_is_the_same_on_every_machine():
    """The digest itself, so that another Python or another chip would be found out."""
    assert digest(replay(random_tapes(0), TOY))[:16] == "fd8d17b368e9a00d"


def test_streams_never_overlap_themselves_and_the_parts_add_up():
    timeline = replay(random_tapes(2), TOY)
    for one, two in zip(timeline.spans, timeline.spans[1:], strict=False):
        if one[:2] == two[:2]:
            assert one.end_ps <= two.start_ps
    for row in timeline.summary():
        assert row.compute_ps + row.exposed_ps + row.bubble_ps == timeline.step_ps
        assert 0 <= row.exposed_ps <= row.comm_ps


def calls_of(made):
    """How many functions of the package one replay calls: its work, not its time."""
    count = 0

    def tally(frame, event, _):
        nonlocal count
        count += event == "call" and "replay" in frame.f_code.co_filename

    sys.setprofile(tally)
    try:
        replay(made, TOY)
    finally:
        sys.setprofile(None)
    return count


def test_work_grows_as_the_tapes_do():
    one = calls_of(random_tapes(0, num_layers=50))
    four = calls_of(random_tapes(0, num_layers=200))
    assert one > 6 * 50 * 9
    assert 3.6 < four / one < 4.1
