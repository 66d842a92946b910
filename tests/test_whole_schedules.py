"""Schedules of all ranks: torch's step for step; what a checker says of others."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from torch.distributed.pipelining import schedules as torchs

from tiny_lm.parallel.schedules import SCHEDULES
from tiny_lm.parallel.whole_schedules import (
    Schedule,
    build,
    complaint,
    in_some_order,
    needs,
    of_lists,
    peak_alive,
    works,
)

OURS = {"F": "F", "I": "B", "W": "W", "B": "BW"}  # torch's letters, and ours


def listed(kind, rank, num_ranks, num_micro) -> list[tuple]:
    """What torch's schedule of two stages a rank plans for it, in our words."""
    self = SimpleNamespace(
        pp_group_size=num_ranks,
        num_stages=2 * num_ranks,
        _n_microbatches=num_micro,
        n_local_stages=2,
        microbatches_per_round=num_ranks,
    )
    ours = []
    for action in kind._calculate_single_rank_operations(self, rank):
        if action is not None:
            halves = action.sub_actions or (action,)
            kinds = [OURS[half.computation_type.value] for half in halves]
            which = [x for h in halves for x in (h.stage_index, h.microbatch_index)]
            ours.append(("FB" if len(halves) == 2 else kinds[0], *which))
    return ours


def done(kind, rank, num_ranks, num_micro) -> list[tuple]:
    """What torch's schedule of one stage a rank does with it, without messages.

    Its own list of 1F1B begins the last rank with micro-batch 1; what it does is right.
    """
    actions, self = [], MagicMock(_n_microbatches=num_micro, _num_stages=num_ranks)
    self._check_inputs.return_value = ([()] * num_micro, [{}] * num_micro)
    stage = self._stage
    stage.stage_index = rank
    for messages in ("get_fwd_recv_ops", "get_fwd_send_ops"):
        getattr(stage, messages).return_value = []
    for messages in ("get_bwd_recv_ops", "get_bwd_send_ops"):
        getattr(stage, messages).return_value = []
    stage.forward_one_chunk = lambda n, *_, **__: actions.append(("F", rank, n))
    stage.backward_one_chunk = lambda n, **_: actions.append(("BW", rank, n))
    kind._step_microbatches(self)
    return actions


TORCHS = {
    "gpipe": (done, torchs.ScheduleGPipe),
    "1f1b": (done, torchs.Schedule1F1B),
    "interleaved": (listed, torchs.ScheduleInterleaved1F1B),
    "zbv": (listed, torchs.ScheduleZBVZeroBubble),
    "dualpipev": (listed, torchs.ScheduleDualPipeV),
}


@pytest.mark.parametrize("name", TORCHS)
@pytest.mark.parametrize(("num_ranks", "num_micro"), [(2, 4), (4, 8), (4, 20), (8, 24)])
def test_each_rank_does_what_torch_would_do_step_for_step(name, num_ranks, num_micro):
    find, kind = TORCHS[name]
    for rank, actions in enumerate(build(name, num_ranks, num_micro).ranks):
        assert list(actions) == find(kind, rank, num_ranks, num_micro)


@pytest.mark.parametrize("num_ranks", [2, 4, 6])
def test_dualpipev_is_dualpipe_folded_in_the_middle(num_ranks):
    """A rank's second chunk does what the other pipeline does on its whole stage."""
    for rank in range(num_ranks):
        whole = SCHEDULES["dualpipe"](2 * num_ranks, rank, 8 * num_ranks)
        assert whole == SCHEDULES["dualpipev"](num_ranks, rank, 4 * num_ranks)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("num_ranks", "num_micro"), [(2, 4), (4, 8), (8, 32)])
def test_nothing_is_wrong_with_ours(name, num_ranks, num_micro):
    assert complaint(build(name, num_ranks, num_micro)) is None


def test_two_stages_by_hand_in_numbers_of_the_whole():
    assert build("dualpipe", 2, 4).ranks[1][:2] == (("F", 0, 2), ("F", 1, 0))
    assert build("zbv", 2, 3).ranks[0][:4] == (
        *[("F", 0, 0), ("F", 0, 1), ("F", 0, 2), ("F", 3, 0)],
    )
    assert build("interleaved", 2, 2).ranks[1][:3] == (
        *[("F", 1, 0), ("F", 1, 1), ("F", 3, 0)],
    )


@pytest.mark.parametrize(
    ("name", "copies", "share"),
    [("1f1b", 1, 1), ("zbv", 1, 0.5), ("interleaved", 1, 0.5), ("dualpipe", 2, 1)],
)
def test_copies_of_the_parameters_and_the_share_of_a_stage(name, copies, share):
    schedule = build(name, 4, 8)
    assert (schedule.copies, schedule.share) == (copies, share)


def test_a_pair_is_three_works_and_its_halves_do_not_wait_for_each_other():
    pair = ("FB", 1, 5, 1, 3)
    assert works(pair) == [("F", 1, 5), ("B", 1, 3), ("W", 1, 3)]
    assert needs(pair, 3) == [("F", 0, 5), ("F", 1, 3), ("B", 2, 3)]


def test_some_order_has_everything_after_what_it_needs():
    schedule, done = build("zbv", 4, 8), set()
    for _, action in in_some_order(schedule):
        assert done.issuperset(needs(action, schedule.num_stages))
        done.update(works(action))
    assert len(done) == 3 * schedule.num_stages * schedule.num_micro


def test_memory_of_two_ranks_by_hand():
    """Rank 0: two forwards before the first BW. Split, its W comes one B late."""
    assert peak_alive(build("1f1b", 2, 4)) == [2, 1]
    assert peak_alive(build("zb1p", 2, 4)) == [2, 1]
    assert peak_alive(build("zb1p", 2, 4), until="W") == [2, 2]
    assert peak_alive(build("gpipe", 2, 4)) == [4, 4]


@pytest.mark.parametrize("num_ranks", [4, 8, 16])
def test_the_most_that_any_rank_keeps_alive(num_ranks):
    most = {name: max(peak_alive(build(name, num_ranks, 64))) for name in SCHEDULES}
    p = num_ranks
    assert most["gpipe"] == 64
    assert most["1f1b"] == most["zb1p"] == most["zbv"] == p
    assert most["dualpipe"] == p + 1  # deepseek_v3, table 2
    assert most["dualpipev"] == (2 * p + 1) / 2  # the same, of 2p stages half as long
    assert most["interleaved"] == (3 * p - 1) / 2
    assert most["interleaved_pairs"] == 3 * p / 2


def with_change(rank: int, change) -> Schedule:
    """1F1B of two ranks and three micro-batches, one rank's list changed."""
    ranks = [list(row) for row in build("1f1b", 2, 3).ranks]
    change(ranks[rank])
    return of_lists(ranks)


def swap(first: int, second: int):
    def change(row):
        row[first], row[second] = row[second], row[first]

    return change


@pytest.mark.parametrize(
    ("rank", "change", "told"),
    [
        (0, lambda row: row.pop(), "micro-batch 2 never goes back (B) on stage 0"),
        (1, lambda row: row.pop(0), "micro-batch 0 never goes forward (F) on stage 1"),
        (
            1,
            lambda row: row.__setitem__(-1, ("B", 1, 2)),
            "micro-batch 2 never gives its W on stage 1",
        ),
        (
            0,
            lambda row: row.append(("F", 0, 1)),
            "F of micro-batch 1 on stage 0 is done 2 times",
        ),
        (
            1,
            swap(0, 1),
            "rank 1 wants to do BW of micro-batch 0 on stage 1 "
            "before F of micro-batch 0 on stage 1",
        ),
        (
            0,
            swap(1, 2),
            None,  # the backward comes first: slower, and right
        ),
        (
            0,
            lambda row: row.append(("X", 0, 1)),
            "rank 0 has an action that means nothing: ('X', 0, 1)",
        ),
    ],
)
def test_one_sentence_says_what_is_wrong(rank, change, told):
    assert complaint(with_change(rank, change)) == told


def test_ranks_that_wait_for_each_other_are_named():
    """Rank 0 wants micro-batch 1 back first, rank 1 does 0 first but waits for F 1."""
    ranks = [
        [("F", 0, 0), ("BW", 0, 0), ("F", 0, 1), ("BW", 0, 1)],
        [("F", 1, 0), ("F", 1, 1), ("BW", 1, 0), ("BW", 1, 1)],
    ]
    assert complaint(of_lists(ranks)) == (
        "nobody can go on: rank 0 waits with BW of micro-batch 0 on stage 0 for B of "
        "micro-batch 0 on stage 1, but rank 1 first wants to do F of micro-batch 1 on "
        "stage 1, which waits too"
    )


def test_a_micro_batch_that_changes_ranks_is_told():
    ranks = [[("F", 0, 0)], [("BW", 0, 0)]]
    assert complaint(of_lists(ranks)) == (
        "B of micro-batch 0 on stage 0 is on rank 1, but its F on rank 0"
    )


def test_memory_that_is_not_there_is_told():
    schedule = build("gpipe", 2, 6)
    assert complaint(schedule, most_alive=6) is None
    assert complaint(schedule, most_alive=2) == (
        "rank 0 keeps 6 micro-batches alive at a time, and 2 are allowed"
    )


def test_counts_and_names_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="unknown schedule 'round'; there are: gpipe"):
        build("round", 2, 4)
    with pytest.raises(ValueError, match="num_micro must be at least 1, got 0"):
        build("gpipe", 2, 0)
    with pytest.raises(ValueError, match="until must be B or W, got 'F'"):
        peak_alive(build("gpipe", 2, 4), until="F")
    with pytest.raises(ValueError, match="no rank does anything"):
        of_lists([[], []])
