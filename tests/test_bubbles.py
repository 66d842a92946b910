"""Bubbles: by hand, by closed forms, and as the replay of a tape finds them."""

from fractions import Fraction

import pytest

from tiny_lm.parallel import unit_pipelines
from tiny_lm.parallel.bubbles import (
    FREE,
    HIDDEN,
    SERIES,
    Units,
    closed_form,
    computing_share,
    idle,
    play,
    step_length,
)
from tiny_lm.parallel.schedules import OF_WHOLE_STAGES, SCHEDULES
from tiny_lm.parallel.whole_schedules import build, of_lists


def test_two_stages_and_one_micro_batch_by_hand():
    """Rank 0: F, waits for F and BW of rank 1, BW. In units 1 + 3 + 2."""
    rows = play(build("1f1b", 2, 1))
    assert rows[0] == [(("F", 0, 0), 0, 1), (("BW", 0, 0), 4, 6)]
    assert rows[1] == [(("F", 1, 0), 1, 2), (("BW", 1, 0), 2, 4)]
    assert idle(build("1f1b", 2, 1)) == [3, 3]


def test_a_stage_of_two_takes_half_as_long():
    assert play(build("zbv", 2, 3))[0][0] == (("F", 0, 0), 0, 0.5)


@pytest.mark.parametrize("num_ranks", [2, 4, 8, 16])
@pytest.mark.parametrize("name", SCHEDULES)
def test_free_messages_make_the_bubbles_of_the_closed_forms(name, num_ranks):
    found = set(idle(build(name, num_ranks, 3 * num_ranks)))
    p = num_ranks
    others = {"zbv": (p - 1) / 2, "interleaved_pairs": 3 * (p - 1) / 2}
    assert found == {closed_form(name, p) if name not in others else others[name]}


@pytest.mark.parametrize("units", [SERIES, Units(forward=2, backward=2, weights=1)])
@pytest.mark.parametrize("name", ["gpipe", "1f1b", "interleaved", "zb1p"])
def test_those_without_pairs_follow_their_forms_with_other_lengths_too(name, units):
    assert set(idle(build(name, 4, 16), units)) == {closed_form(name, 4, units)}


def test_dualpipes_form_is_exact_only_where_a_backward_for_the_input_is_a_forward():
    """In tenths: F 10, B 20, of which W 8. The formula says 78 (facts: 72 found)."""
    units = Units(forward=10, backward=12, weights=8)
    assert closed_form("dualpipe", 8, units) == 78
    assert set(idle(build("dualpipe", 8, 20), units)) == {72}


def test_a_bubble_does_not_grow_with_the_number_of_micro_batches():
    for name in SCHEDULES:
        few, many = (idle(build(name, 4, count)) for count in (8, 40))
        assert few == many


@pytest.mark.parametrize("name", OF_WHOLE_STAGES)
@pytest.mark.parametrize(("num_ranks", "num_micro"), [(2, 4), (4, 10), (8, 16)])
def test_a_replayed_tape_waits_as_long(name, num_ranks, num_micro):
    timeline = unit_pipelines.play(OF_WHOLE_STAGES[name], num_ranks, num_micro)
    assert unit_pipelines.idle(timeline) == idle(build(name, num_ranks, num_micro))


def test_lengths_of_an_action_by_hand():
    lengths = {k: SERIES.length(k) for k in ("F", "B", "W", "BW", "FB")}
    assert lengths == {"F": 2, "B": 3, "W": 1, "BW": 4, "FB": 6}
    assert HIDDEN.length("FB") == 3
    assert HIDDEN.length("F") == 2  # alone, there is nothing to hide behind
    dear = Units(forward_sends=4, backward_sends=4, hidden=True)
    assert dear.length("FB") == 8


def test_who_does_not_pair_hides_nothing():
    for name in ("gpipe", "1f1b", "interleaved", "zb1p", "zbv"):
        schedule = build(name, 4, 8)
        assert step_length(schedule, HIDDEN) == step_length(schedule, SERIES)
    for name in ("interleaved_pairs", "dualpipe", "dualpipev"):
        schedule = build(name, 4, 8)
        assert step_length(schedule, HIDDEN) < step_length(schedule, SERIES)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("units", [FREE, SERIES, HIDDEN])
def test_what_computes_is_the_work_over_the_step(name, units):
    schedule = build(name, 4, 12)
    copies = Fraction(12 * 3 * (1 if name != "dualpipe" else 1))
    share = computing_share(schedule, units)
    assert share == pytest.approx(float(copies) / step_length(schedule, units))


def test_a_schedule_that_gets_stuck_takes_no_time_at_all():
    with pytest.raises(ValueError, match="yours gets stuck"):
        play(of_lists([[("BW", 0, 0), ("F", 0, 0)]]))


def test_no_form_is_made_up():
    assert closed_form("zbv", 4) is None
