"""Published figures: each comes out by its call, or says why it does not."""

import re

import pytest

from tiny_lm.course import published
from tiny_lm.course.published import Published, figures, missing

BIBLIOGRAPHY = (published.FIGURES.parents[2] / "references.bib").read_text("utf-8")
KEYS = set(re.findall(r"^@\w+\{(\w+),", BIBLIOGRAPHY, re.MULTILINE))


@pytest.mark.parametrize("figure", figures(), ids=lambda f: f.what)
def test_a_figure_comes_out_or_says_why_not(figure):
    assert figure.comes_out is not bool(figure.note), figure.ours
    assert abs(figure.deviation) < 0.15


@pytest.mark.parametrize("row", [*figures(), *missing()], ids=lambda row: row.what)
def test_a_source_is_in_the_bibliography(row):
    assert row.source.partition(",")[0] in KEYS


def test_there_are_figures_of_every_technique_and_of_what_came_after():
    topics = {figure.topic for figure in figures()}
    assert len(topics) == 5 and len(figures()) > 40
    assert len({figure.what for figure in figures()}) == len(figures())


def test_a_figure_that_is_off_by_one_digit_does_not_come_out():
    figure = next(f for f in figures() if f.value == 5.576)
    assert figure.comes_out

    def changed(**change) -> Published:
        return Published(**(vars(figure) | change))

    assert not changed(value=5.577).comes_out
    assert not changed(call="1.0001 * run.cost_usd / 1e6", digit=0).comes_out
    assert changed(call="1.00005 * run.cost_usd / 1e6").comes_out


def test_a_call_names_nothing_but_the_course():
    for figure in figures():
        words = set(re.findall(r"(?<![\w.])[a-z_]\w*", figure.call))
        arguments = set(re.findall(r"(\w+)=", figure.call)) | {"e9", "e6", "e3", "e12"}
        texts = set(re.findall(r"'(\w+)'", figure.call))
        assert words - arguments - texts <= set(published.names()), figure.call


def test_a_figure_is_shown_with_the_digits_it_was_printed_with():
    shown = {figure.value: figure.printed for figure in figures()}
    assert shown[671] == "671" and shown[5.576] == "5.576" and shown[272.8] == "272.80"
    assert shown[70_272] == "70,272"
