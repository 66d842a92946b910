"""Schedules: order, completeness, and how many micro-batches are alive."""

import pytest

from tiny_lm.parallel.schedules import (
    OF_WHOLE_STAGES,
    SCHEDULES,
    dualpipe,
    dualpipev,
    gpipe,
    interleaved,
    interleaved_pairs,
    neighbours,
    one_f_one_b,
    parts,
    stage_of,
    zb1p,
    zbv,
)


def test_1f1b_of_two_stages_by_hand():
    assert one_f_one_b(2, 0, 2) == [
        ("F", 0, 0),
        ("F", 0, 1),
        ("BW", 0, 0),
        ("BW", 0, 1),
    ]
    assert one_f_one_b(2, 1, 2) == [
        ("F", 0, 0),
        ("BW", 0, 0),
        ("F", 0, 1),
        ("BW", 0, 1),
    ]


def test_zb1p_leaves_a_weight_gradient_for_the_end_on_each_later_stage():
    kinds = [kind for kind, *_ in zb1p(3, 2, 4)]
    assert kinds == ["F", "B"] * 2 + ["F", "B", "W", "F", "B", "W", "W", "W"]


def test_dualpipe_of_two_stages_by_hand():
    """No middle to wait for: both ranks start their own side, then take turns."""
    assert [kind for kind, *_ in dualpipe(2, 0, 4)] == [
        *"FFF",
        *["BW", "FB", "BW", "B", "W"],
    ]
    assert dualpipe(2, 1, 4)[:2] == [("F", 1, 0), ("F", 0, 0)]


def test_a_pair_is_a_forward_and_both_halves_of_a_backward():
    assert parts(("FB", 0, 5, 1, 3)) == [("F", 0, 5), ("BW", 1, 3)]
    assert parts(("W", 1, 2)) == [("W", 1, 2)]


def test_the_second_pipeline_runs_the_other_way():
    assert [stage_of(0, 4, rank) for rank in range(4)] == [0, 1, 2, 3]
    assert [stage_of(1, 4, rank) for rank in range(4)] == [3, 2, 1, 0]
    assert neighbours(("F", 0, 7), 2) == (1, 3) == neighbours(("BW", 1, 7), 2)
    assert neighbours(("BW", 0, 7), 2) == (3, 1) == neighbours(("F", 1, 7), 2)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("rank", range(8))
def test_every_micro_batch_goes_forward_and_back_once_on_every_stage(name, rank):
    done = [p for action in SCHEDULES[name](8, rank, 32) for p in parts(action)]
    pipelines = {0: range(32)}
    if name == "dualpipe":
        pipelines = {0: range(16), 1: range(16)}
    elif name not in OF_WHOLE_STAGES:
        pipelines = {0: range(32), 1: range(32)}
    wanted = [(p, m) for p, micro in pipelines.items() for m in micro]
    for kinds in (("F",), ("B", "BW"), ("W", "BW")):
        assert sorted(part[1:] for part in done if part[0] in kinds) == wanted
    for number, (kind, *which) in enumerate(done):
        before = done[:number]
        assert kind == "F" or ("F", *which) in before
        assert kind != "W" or ("B", *which) in before


@pytest.mark.parametrize("num_stages", [4, 8, 16])
def test_dualpipe_keeps_one_forward_more_alive_than_there_are_stages(num_stages):
    peaks = []
    for rank in range(num_stages):
        alive, peak = 0, 0
        for action in dualpipe(num_stages, rank, 4 * num_stages):
            for kind, *_ in parts(action):
                alive += {"F": 1, "B": -1, "BW": -1, "W": 0}[kind]
                peak = max(peak, alive)
        peaks.append(peak)
    assert max(peaks) == num_stages + 1


def test_gpipe_keeps_the_order_of_the_micro_batches():
    assert gpipe(4, 2, 2) == [("F", 0, 0), ("F", 0, 1), ("BW", 0, 0), ("BW", 0, 1)]


def test_interleaved_of_two_ranks_by_hand():
    """A group of two passes chunk 0, then chunk 1; back the other way round."""
    last = interleaved(2, 1, 2)
    assert last[:2] == [("F", 0, 0), ("F", 0, 1)]
    assert last[2:4] == [("F", 1, 0), ("BW", 1, 0)]
    assert last[4:] == [("F", 1, 1), ("BW", 1, 1), ("BW", 0, 0), ("BW", 0, 1)]


def test_one_forward_more_makes_pairs_of_different_micro_batches():
    for rank in range(4):
        pairs = [a for a in interleaved_pairs(4, rank, 8) if a[0] == "FB"]
        assert pairs == [
            ("FB", *forward[1:], *backward[1:])
            for forward, backward in zip(
                [a for a in interleaved(4, rank, 8) if a[0] == "F"][-len(pairs) :],
                [a for a in interleaved(4, rank, 8) if a[0] == "BW"],
                strict=False,
            )
        ]
        assert all(pair[1:3] != pair[3:] for pair in pairs)


@pytest.mark.parametrize(
    ("schedule", "counts", "wanted"),
    [
        (interleaved, (4, 6), "groups of num_ranks=4, got num_micro=6"),
        (zbv, (4, 6), "at least 7 micro-batches on num_ranks=4, got num_micro=6"),
        (dualpipev, (4, 7), "two micro-batches a rank at least, got num_ranks=4"),
    ],
)
def test_counts_that_do_not_fit_are_refused(schedule, counts, wanted):
    with pytest.raises(ValueError, match=wanted):
        schedule(counts[0], 0, counts[1])


@pytest.mark.parametrize("counts", [(3, 8), (4, 9), (4, 6)])
def test_dualpipe_refuses_counts_whose_phases_do_not_meet(counts):
    stages, micro = counts
    wanted = f"got num_stages={stages} and num_micro={micro}"
    with pytest.raises(ValueError, match=wanted):
        dualpipe(stages, 0, micro)
