"""Numbers in few bits: the explorer's numbers by hand, and what it teaches."""

import json

import pytest
import torch

from tiny_lm.course.explorers import codes, widgets
from tiny_lm.course.explorers.codes import Setting, quantize, read
from tiny_lm.course.figures.style import COLORS
from tiny_lm.files import to_json
from tiny_lm.formats import E2M1, E4M3, E5M2, FORMATS, decode, round_to


def at(number: float, format: str = "e4m3") -> codes.Read:
    """A number read, where the sliders have it."""
    size = abs(number)
    exponent = next(k for k in codes.EXPONENTS if 2.0**k <= size < 2.0 ** (k + 1))
    part = (size / 2.0**exponent - 1) * codes.PARTS
    assert part == int(part)
    negative = number < 0
    return read(
        Setting(format=format, negative=negative, exponent=exponent, part=int(part))
    )


def test_bytes_by_hand():
    assert at(6.5) == codes.Read(
        code=0b0_1001_101, value=6.5, below=6.5, above=6.5, fate="kept"
    )
    assert at(-0.375).code == 0b1_0101_100
    assert at(6.6875).value == 6.5 and (at(6.6875).below, at(6.6875).above) == (6.5, 7)
    assert at(17.0).value == 16 and at(19.0).value == 20  # middles, to the even code


def test_what_is_small_loses_digits_and_then_everything():
    assert at(3 / 512).fate == "faint" and at(3 / 512).code == 3
    assert at(1 / 64).fate == "kept"
    assert at(1 / 1024) == codes.Read(
        code=0, value=0, below=0, above=1 / 512, fate="zero"
    )
    assert at(-1 / 1024).code == 128
    assert at(65 / 64 / 1024).value == 1 / 512


def test_what_is_large_is_cut_and_has_no_neighbour_above():
    assert at(464).fate == "kept" and at(464).above is None
    assert at(468).fate == "cut" and (at(468).value, at(468).below) == (448, 448)
    assert at(-65536 * 1.5, "e5m2").value == -57344
    assert at(6.5, "e2m1").fate == "kept" and at(7.125, "e2m1").fate == "cut"
    assert [codes.limit(of) for of in (E4M3, E5M2, E2M1)] == [464, 61440, 7]


@pytest.mark.parametrize("format", FORMATS)
def test_every_place_of_the_sliders_is_read_like_the_quantiser_rounds(format):
    of = FORMATS[format]
    for exponent in codes.EXPONENTS:
        for part in range(0, codes.PARTS, 5):
            found = read(Setting(format=format, exponent=exponent, part=part))
            number = (1 + part / codes.PARTS) * 2.0**exponent
            assert found.value == round_to(torch.tensor(number), of).item()
            dtype = torch.uint8
            code = torch.tensor([found.code], dtype=dtype).view(of.dtype)
            assert decode(code, of).item() == found.value
            assert found.value in (found.below, found.above or found.below)


def test_the_row_is_exact_in_fp32_and_spread_over_its_doublings():
    for doublings in codes.DOUBLINGS:
        row = codes.numbers(Setting(doublings=doublings, outlier=50))
        assert torch.tensor(row).tolist() == row
        assert row.pop(codes.OUTLIER_AT) == 50
        assert 2.0**-doublings <= min(row) and max(row) < 1
        upper = sum(x >= 2.0 ** (-doublings / 2) for x in row)
        assert 100 < upper < 155
    assert len(set(codes.draws())) > 250


def test_a_row_under_one_scale_by_hand():
    found = quantize(Setting(doublings=1, outlier=2), "row")
    (scale,) = found.scales
    assert scale == torch.tensor(2 / 448).item()
    assert found.kept[codes.OUTLIER_AT] == pytest.approx(2)
    row = codes.numbers(Setting(doublings=1, outlier=2))
    pairs = [p for at, p in enumerate(zip(row, found.kept, strict=True)) if at != 72]
    changed = sum((y - x) ** 2 for x, y in pairs) / sum(x * x for x, _ in pairs)
    assert found.error == pytest.approx(changed**0.5)
    assert found.fates == ["kept"] * codes.NUM_NUMBERS


# --- what the explorer teaches ---


def test_e4m3_forgives_an_outlier_and_a_range_is_what_hurts():
    narrow = quantize(Setting(doublings=2, outlier=2000), "row")
    wide = quantize(Setting(doublings=24, outlier=1), "row")
    assert narrow.share("kept") == 1 and wide.share("zero") > 0.15


def test_the_first_view_shows_that_who_shares_less_loses_less():
    zeros = {w: quantize(Setting(), w).share("zero") for w in codes.WAYS}
    assert zeros["row"] > 0.3 and zeros["tile"] < zeros["row"] / 2
    assert zeros["e4m3"] < zeros["floor"] <= zeros["up"] < zeros["tile"] / 2


def test_only_two_rules_of_scales_cut_numbers_off():
    cut = {w for w in codes.WAYS if quantize(Setting(), w).share("cut")}
    assert cut == {"none", "floor", "e4m3"}
    assert quantize(Setting(), "floor").error > 1.5 * quantize(Setting(), "up").error


def test_four_bits_need_small_groups():
    s = Setting(format="e2m1")
    errors = [quantize(s, way).error for way in ("row", "tile", "up", "e4m3")]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.25 < errors[0]


# --- the widget ---


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("format", "e3m4", r"format must be one of \['e4m3', 'e5m2', 'e2m1'\]"),
        ("exponent", 17, r"exponent must be one of \[-18, .*, 16\], got 17"),
        ("part", 64, r"part must be one of \[0, .*, 63\], got 64"),
        ("way", "block", r"way must be one of \['none', 'row', .*\], got 'block'"),
        ("outlier", 3, r"outlier must be one of \[1, 2, 5, .*\], got 3"),
    ],
)
def test_a_place_that_a_control_lacks_is_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        widgets.codes_explorer(**{name: value})


def test_an_explorer_starts_where_it_is_told_and_says_what_it_shows():
    explorer = widgets.codes_explorer(way="tile", outlier=500)
    assert explorer.choice["way"] == "tile" and explorer.choice["outlier"] == 500
    assert explorer.fixed["color"] == COLORS["fp8"]
    assert explorer._esm.count("export default") == 1
    zero = quantize(Setting(way="tile", outlier=500), "tile").share("zero")
    assert f"{zero:.0%} become zero" in explorer.box()
    assert "an outlier of 500, in E4M3; scales: 1 × 128" in explorer.box()
    state = json.loads(to_json(explorer.fixed))
    assert state["formats"]["e4m3"]["largest"] == 448
    assert len(to_json(explorer.fixed)) < 5000
