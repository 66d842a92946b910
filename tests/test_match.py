"""Tapes that do not fit together: each slip is named with its rank and its number."""

import pytest

from tiny_lm.replay.match import check
from tiny_lm.replay.tape import Collective, Mark, Receive, Send, Tape, Wait

PAIR = (0, 1)


def summed(num_bytes=8, number=3, group=PAIR, kind="all_reduce", **more):
    sizes = num_bytes if isinstance(num_bytes, tuple) else (num_bytes,)
    return Collective("gradient", kind, sizes, group, number, **more)


def tapes(*records_by_rank):
    return [Tape(rank, tuple(rows)) for rank, rows in enumerate(records_by_rank)]


def test_tapes_that_fit_are_accepted():
    one = [summed(), Mark(1), Wait(1, "comm"), Send("x", 1, 8, 0)]
    check(tapes(one, [summed(), Receive("x", 0, 8, 0)]), mirror=False)


def test_rows_of_an_all_to_all_are_a_ranks_own():
    exchange = {"kind": "all_to_all"}
    check(tapes([summed((1, 2), **exchange)], [summed((7, 0), **exchange)]), False)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            [summed(8)],
            [summed(16)],
            r"call 3 of group \(0, 1\) differs: rank 0 makes all_reduce 'gradient' of "
            r"8 bytes, rank 1 makes all_reduce 'gradient' of 16 bytes",
        ),
        (
            [summed(8)],
            [summed(8, kind="all_gather")],
            "rank 0 makes all_reduce .* rank 1 makes all_gather",
        ),
        (
            [summed(8, kind="broadcast", root=0)],
            [summed(8, kind="broadcast", root=1)],
            "with root 0, rank 1 makes .* with root 1",
        ),
        (
            [summed(8), summed(8, number=4)],
            [summed(8)],
            r"rank 0 waits in call 4 of group \(0, 1\), all_reduce 'gradient' of 8 "
            "bytes, for rank 1, which never makes it",
        ),
        ([summed(), summed()], [summed()], "rank 0, call 3 .* is on the tape twice"),
        ([summed(group=(1, 2))], [], "rank 0, call 3 .* the rank is not in the group"),
        ([summed(kind="gather")], [], "'gather' is not one of all_reduce"),
        (
            [summed((1, 2, 3), kind="all_to_all")],
            [],
            "rank 0, call 3 .*: all_to_all wants 2 entries of bytes, got 3",
        ),
        ([summed((1, 2))], [], "all_reduce wants 1 entries of bytes, got 2"),
        (
            [Wait(7, "comm")],
            [],
            "rank 0, stream 'comm' waits for event 7, which nothing on this rank marks",
        ),
        ([Mark(7), Mark(7, "comm")], [], "rank 0 marks event 7 twice"),
        (
            [Receive("hidden", 1, 8, 0)],
            [],
            r"rank 0 waits for message 0 from rank 1 \('hidden'\), which never sends",
        ),
        (
            [Send("hidden", 1, 8, 2)],
            [],
            r"rank 0 sends message 2 \('hidden'\) to rank 1, which never receives it",
        ),
        (
            [Send("hidden", 1, 8, 0)],
            [Receive("hidden", 0, 9, 0)],
            "message 0 from rank 0 to rank 1: 8 bytes sent, 9 expected",
        ),
        ([Send("x", 0, 8, 0)], [], "send 0 from rank 0 to rank 0: .* sends itself"),
        (
            [Send("x", 1, 8, 0)] * 2,
            [Receive("x", 0, 8, 0)],
            "send 0 from rank 0 to rank 1 is on the tape twice",
        ),
    ],
)
def test_what_does_not_fit_is_named(one, other, message):
    with pytest.raises(ValueError, match=message):
        check(tapes(one, other), mirror=False)


def test_a_rank_has_one_tape():
    with pytest.raises(ValueError, match="rank 1 has more than one tape"):
        check([Tape(1, ()), Tape(0, ()), Tape(1, ())], mirror=False)


def test_a_rank_without_a_tape_is_missed_unless_it_mirrors():
    alone = tapes([summed()])
    with pytest.raises(ValueError, match="rank 0 waits .* rank 1, which has no tape"):
        check(alone, mirror=False)
    check(alone, mirror=True)


def test_a_rank_with_a_tape_does_not_mirror():
    with pytest.raises(ValueError, match="for rank 1, which never makes it"):
        check(tapes([summed()], []), mirror=True)
