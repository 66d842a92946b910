"""The pictures of the FP8 part show the numbers that they are given."""

import re

import pytest

from tiny_lm.course.figures import accumulation, fp8
from tiny_lm.course.figures.style import COLORS
from tiny_lm.formats import E2M1, E4M3, E5M2


def words(drawing) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)


def filled(drawing, color: str) -> int:
    return len(re.findall(rf"fill: {color}", drawing.svg, re.IGNORECASE))


def test_a_format_has_as_many_positive_numbers_as_codes_for_them():
    assert fp8.positive_values(E2M1) == [0.5, 1, 1.5, 2, 3, 4, 6]
    assert len(fp8.positive_values(E4M3)) == 126  # of 128, without zero and NaN
    assert len(fp8.positive_values(E5M2)) == 123


def test_a_byte_has_a_box_a_bit_and_says_what_its_fields_mean():
    drawing = fp8.byte("0 101 11", {"sign": "+", "exponent": "five", "fraction": "3"})
    said = words(drawing)
    assert said.count("1") == 4 and said.count("0") == 2
    assert {"sign", "exponent", "fraction", "+", "five", "3"} <= set(said)
    assert filled(drawing, COLORS["fp8"]) == 3


def test_code_lines_name_their_formats_and_marks():
    drawing = fp8.code_lines([E4M3, E5M2], {1.0: "one", 448.0: "end"})
    assert {"E4M3", "E5M2", "one", "end"} <= set(words(drawing))
    assert drawing.narrow


def test_near_zero_counts_in_the_smallest_steps():
    said = words(fp8.near_zero(E4M3, doublings=2))
    assert {"0", "8", "16", "32", "subnormal", "normal"} <= set(said)


def test_errors_by_size_name_their_lines():
    drawing = fp8.errors_by_size([1.0, 2.0], {"E4M3": [0.03, 0.02], "other": [1, 0.5]})
    assert {"E4M3", "other", "100 %"} <= set(words(drawing))


def test_a_window_hollows_what_is_lost():
    kept = fp8.windows({"all": [1.0, -0.02, 448.0]})
    lost = fp8.windows({"all": [1.0, 449.0, 0.0009]})

    def hollow(drawing):
        return drawing.svg.lower().count("fill: #ffffff; stroke: #d55e00")

    assert hollow(kept) == 0 and hollow(lost) == 2


def test_an_outlier_is_drawn_under_four_groupings():
    drawing = fp8.who_shares()
    assert filled(drawing, COLORS["fp8"]) == 4
    assert "128 × 128" in " ".join(words(drawing))


def test_groupings_are_compared_in_a_panel_a_format():
    lines = {"gradients": [0.5, 0.0], "weights": [0.1, 0.01]}
    drawing = fp8.by_group(["all", "row"], {"E4M3": lines, "E2M1": lines}, "lost", 1e-4)
    said = words(drawing)
    assert {"E4M3", "E2M1", "gradients", "weights", "lost"} <= set(said)
    assert said.count("row") == 2


@pytest.mark.parametrize(
    ("x", "digits"), [(5.25, "101.01"), (0.5, "000.10"), (0.3, "000.01")]
)
def test_binary_digits_are_those_of_the_number(x, digits):
    found = accumulation.bits_of(x, high=2, low=-2)
    assert "".join(d or "0" for d in found) == digits.replace(".", "")


def test_lined_up_greys_what_is_cut_off():
    drawing = accumulation.lined_up({"sum": 5.0, "p": 1.25}, fraction_bits=2, low=-2)
    assert {"sum", "p", "cut off", "added: 1 + 2 columns"} <= set(words(drawing))
    grey = re.findall(r"<text[^>]*fill: #6e6e6e[^>]*>([01])</text>", drawing.svg)
    assert grey == ["0", "0", "0", "1"]  # behind the point, of the sum and of p


def test_errors_of_sums_are_named_at_their_ends():
    errors = {"none": [0.0, -0.07], "every 128": [0.0, -0.001]}
    assert set(errors) <= set(words(accumulation.growing_errors([32, 64], errors)))
    shares = {"none": [1e-3, 5e-2], "every 128": [1e-4, 5e-4]}
    drawing = accumulation.by_offset([0.0, 1.0], shares, level=0.02)
    assert {"2 %", *shares} <= set(words(drawing))
