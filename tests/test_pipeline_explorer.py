"""The explorer of a pipeline's orders: what it plays, what it says, what it refuses."""

import html
import json
import re
from fractions import Fraction

import pytest

from tiny_lm.course.explorers import pipeline, widgets
from tiny_lm.course.explorers.pipeline import Setting, simulate


def test_with_free_messages_orders_wait_as_their_closed_forms_say():
    free = {"sends": 0, "ranks": 8, "micros": 16}
    waits = {
        order: set(simulate(Setting(order=order, **free)).idle)
        for order in pipeline.TITLES
    }
    assert waits["gpipe"] == waits["1f1b"] == {7 * 3}
    assert waits["zb1p"] == {7} and waits["dualpipe"] == {6}


def test_when_pairs_hide_messages_dualpipe_waits_and_spends_least():
    def length(order, hidden):
        s = Setting(order=order, ranks=8, micros=16, sends=1, hidden=hidden)
        return simulate(s).length

    hidden = {order: length(order, True) for order in pipeline.TITLES}
    assert min(hidden, key=hidden.get) in ("dualpipe", "dualpipev")
    assert length("1f1b", True) == length("1f1b", False)  # it has no pairs
    assert length("dualpipe", False) > 1.2 * length("dualpipe", True)


def test_an_order_keeps_fewer_micro_batches_than_all_forwards_first():
    alive = {o: max(simulate(Setting(order=o)).alive) for o in pipeline.TITLES}
    assert alive["gpipe"] == 8 and alive["1f1b"] == 4
    assert simulate(Setting(order="dualpipe")).copies == 2


def test_counts_that_do_not_fit_are_no_step_and_are_said():
    s = Setting(order="dualpipe", ranks=8, micros=4)
    assert simulate(s) is None
    assert pipeline.alternative(s) == (
        "DualPipe cannot take 4 micro-batches on 8 ranks."
    )
    assert "<svg" in pipeline.picture(s).svg


def test_every_length_is_counted_without_rounding():
    for works in pipeline.WORKS.values():
        for sends in pipeline.SENDS:
            for length in works:
                exact = Fraction(length) * Fraction(sends)
                assert exact.denominator <= 8


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("order", "2f2b", r"order must be one of \['gpipe', .*\], got '2f2b'"),
        ("ranks", 3, r"ranks must be one of \[2, 4, 8\], got 3"),
        ("micros", 5, r"micros must be one of \[4, 8, 16\], got 5"),
        ("sends", 3, "sends must be one of .* got 3"),
        ("works", "1:1:1", "works must be one of .* got '1:1:1'"),
    ],
)
def test_a_place_that_a_control_lacks_is_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        widgets.pipeline_explorer(**{name: value})


def test_the_box_says_what_its_picture_shows():
    box = widgets.pipeline_explorer(order="1f1b", sends=0).box()
    alt = html.unescape(re.search(r'<img alt="(.*?)"', box)[1])
    assert "8 micro-batches on 4 ranks in the order of 1F1B, F, B and W as" in alt
    step = simulate(Setting(order="1f1b", sends=0))
    assert f"takes {step.length:g} units; a rank waits for {step.waits:.0%}" in alt


def test_what_a_browser_gets_is_small():
    assert len(json.dumps(pipeline.fixed())) < 60_000
