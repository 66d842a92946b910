"""Timelines: intervals that overlap count once, and each rank's parts add up."""

from tiny_lm.replay.timeline import Span, Timeline, union

SPANS = (
    Span(0, "comm", "dispatch", 5, 20, "comm"),
    Span(0, "compute", "a", 0, 10, "kernel"),
    Span(0, "compute", "b", 30, 40, "kernel"),
    Span(0, "more", "gather", 15, 25, "comm"),
    Span(0, "more", "sum", 35, 38, "comm"),
    Span(1, "comm", "dispatch", 0, 5, "wait"),
    Span(1, "comm", "dispatch", 5, 20, "comm"),
    Span(1, "side", "c", 8, 12, "kernel"),
)
TIMELINE = Timeline("toy", SPANS, 50)


def test_overlapping_pieces_count_once():
    assert list(union(SPANS[:5], {"comm"})) == [(5, 25), (35, 38)]
    assert list(union(SPANS[:5], {"kernel", "comm"})) == [(0, 25), (30, 40)]
    assert list(union(SPANS, {"nothing"})) == []
    assert list(union(SPANS[1:3], {"kernel"})) == [(0, 10), (30, 40)]


def test_where_a_ranks_time_went_by_hand():
    """Rank 0 computes in 0-10 and 30-40; bytes are alone on the way in 10-25."""
    first, second = TIMELINE.summary()
    assert tuple(first) == (0, 20, 23, 15, 50 - 20 - 15)
    assert first.hidden_ps == 8
    assert tuple(second) == (1, 4, 15, 11, 35)
    for row in (first, second):
        assert row.compute_ps + row.exposed_ps + row.bubble_ps == 50


def test_spans_of_one_rank():
    assert TIMELINE.of(1) == SPANS[5:]
    assert TIMELINE.of(7) == ()


def test_a_timeline_prints_a_table_that_says_it_is_emulated():
    lines = str(Timeline("toy", SPANS, 50_000_000)).splitlines()
    assert lines[0] == "emulated on toy: 50.000 µs"
    assert lines[1].split() == ["rank", "compute", "exposed", "hidden", "bubble"]
    assert len(lines) == 4
