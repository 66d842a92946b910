"""Pictures carry their words: a caption, alternative text, letters that find room."""

import re

import pytest

from tiny_lm.course.figures.captions import Sample, figcaption, inline
from tiny_lm.course.figures.style import (
    NARROW,
    WIDTH,
    Drawing,
    color_key,
    crowded,
    end_labels,
    finish,
    new_figure,
)

ALT = "A line that rises from zero to one."


def drawing(*words: tuple[float, float, str]) -> Drawing:
    figure, ax = new_figure(2.0)
    ax.plot([0, 1], [0, 1])
    for x, y, word in words:
        ax.text(x, y, word)
    return finish(figure)


def test_code_and_stress_become_html_and_the_rest_stays_as_it_is():
    assert inline("`a<b` is *new* & 2 * 3 * 4") == (
        "<code>a&lt;b</code> is <em>new</em> &amp; 2 * 3 * 4"
    )


def test_a_caption_has_a_place_for_its_number():
    assert figcaption("Table", "x").startswith(
        '<figcaption><span class="caption-number" data-kind="Table"></span>x'
    )


def test_a_picture_without_words_is_a_bare_image_and_one_with_words_a_figure():
    bare = drawing()
    assert bare._repr_html_() is None and bare._repr_svg_() == bare.svg
    shown = bare.captioned("It *rises*.", alt=ALT, name="rise")._repr_html_()
    assert '<figure class="drawing" id="fig-rise" style=' in shown
    assert "It <em>rises</em>." in shown
    assert shown.count(f'aria-label="{ALT}"') == 2
    assert repr(bare.captioned("", alt=ALT)) == ALT


def test_alternative_text_that_says_nothing_is_refused():
    with pytest.raises(ValueError, match="alt must say what the picture shows"):
        drawing().captioned("It rises.", alt="a line")


def test_a_picture_in_a_page_keeps_its_names_and_rules_to_itself():
    shown = drawing().captioned("", alt=ALT)._repr_html_()
    ids = re.findall(r'\bid="([^"]*)"', shown)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:url\(|href=")#([^")]*)', shown))
    assert used <= set(ids)
    assert "<style" not in shown and "<metadata" not in shown


def test_a_phone_gets_a_narrower_picture_in_letters_of_the_same_size():
    both = drawing((0.1, 0.1, "a word"))
    widths = [
        float(re.search(r'viewBox="0 0 ([\d.]+)', s)[1])
        for s in (both.svg, both.narrow)
    ]
    assert widths == pytest.approx([72 * WIDTH, 72 * NARROW])
    sizes = [
        re.search(r"font-size: (\d+)px[^>]*>a word<", svg)[1]
        for svg in (both.svg, both.narrow)
    ]
    assert sizes[0] == sizes[1]


def test_where_words_would_collide_on_a_phone_the_wide_picture_moves_sideways():
    wide = drawing((0.0, 0.5, "w" * 24), (0.55, 0.5, "w" * 24))
    assert wide.svg and not wide.narrow
    shown = wide.captioned("", alt=ALT)._repr_html_()
    assert '<div class="plate" tabindex="0">' in shown


def test_crowded_names_words_that_cover_each_other_or_leave_the_picture():
    figure, ax = new_figure(2.0)
    for x, word in ((0.1, "one"), (0.11, "two"), (0.5, "free"), (0.99, "w" * 30)):
        ax.text(x, 0.5, word).set_in_layout(False)
    figure.draw_without_rendering()
    assert set(crowded(figure)) == {"one", "two", "w" * 30}


def test_names_at_the_ends_of_lines_keep_their_distance():
    _, ax = new_figure(2.0)
    ends = {"a": (0.5, "k"), "b": (0.51, "k"), "c": (0.9, "k")}
    end_labels(ax, ends, x=1, gap=0.1)
    places = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert places == {"a": 0.5, "b": pytest.approx(0.6), "c": 0.9}


def test_a_heat_map_gets_a_scale_with_its_meaning():
    figure, ax = new_figure(2.0)
    color_key(figure, ax.imshow([[0, 1]]), ax, "weight")
    assert figure.axes[-1].get_ylabel() == "weight"


def test_a_sample_is_shown_as_it_was_written():
    sample = Sample("a < b\n", "At *0.7*.")
    assert "<pre>a &lt; b\n</pre>" in sample._repr_html_()
    assert "At <em>0.7</em>." in sample._repr_html_()
    assert repr(sample).startswith("a < b")
