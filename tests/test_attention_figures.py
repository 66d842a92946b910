"""The pictures of the attention part show the numbers that they are given."""

import re

import pytest

from tiny_lm.course.figures import attention, caches, clocks, decoding, latent
from tiny_lm.course.figures.style import COLORS


def words(drawing) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)


def filled(drawing, color: str) -> int:
    return len(re.findall(rf"fill: {color}", drawing.svg, re.IGNORECASE))


def test_a_cache_leaves_one_position_a_byte_to_be_computed():
    drawing = attention.passes("ab", "xyz")
    # Green: two of the prompt and one for each later byte, in both halves.
    assert filled(drawing, COLORS["mla"]) == 2 * (2 + 1 + 1)
    # Without a cache the second byte computes two anew, the third three.
    assert filled(drawing, COLORS["baseline"]) == 2 + 3
    assert words(drawing).count("with a cache") == 1
    assert words(drawing).count("z") == 2  # written last, and read by nobody


def test_heads_share_what_their_group_keeps():
    drawing = attention.who_shares(4)
    kept = [word for word in words(drawing) if word.endswith("kept")]
    assert kept == ["8 vectors kept", "4 vectors kept", "2 vectors kept"]
    assert words(drawing).count("k3 v3") == 1
    assert words(drawing).count("k0 v0") == 3


def test_growth_lights_one_kind_and_names_its_limit():
    lines = {"MHA": [10.0, 20.0], "MLA": [1.0, 2.0]}
    drawing = attention.growth([1024, 2048], lines, "GB", {"80 GB": 80.0})
    assert {"MHA", "MLA", "80 GB", "1K", "2K", "tokens of context"} <= set(
        words(drawing)
    )
    assert COLORS["mla"].lower() in drawing.svg.lower()


def test_a_cloud_has_two_dots_a_token():
    points = [(1.0, 0.5), (-0.4, -0.1), (0.2, 0.3)]
    one, two = (latent.cloud(points[:n], (0.8, 0.6)).svg for n in (2, 3))
    assert two.count("<use") - one.count("<use") == 2


def test_energies_name_their_three_kinds():
    fast, slow, noise = (
        [1 - (1 - n / 64) ** power for n in range(1, 65)] for power in (9, 4, 1)
    )
    drawing = latent.energies([fast, fast], [slow], noise)
    for name in ("trained", "untrained", "noise"):
        assert words(drawing).count(name) == 1


def test_loss_by_rank_shows_the_whole_models_level():
    drawing = latent.loss_by_rank([1, 2, 4], [3.0, 2.0, 1.5], 1.4)
    assert {"all of them", "1", "2", "4"} <= set(words(drawing))


def test_projections_print_their_widths():
    widths = {
        "state": 7168, "latent": 512, "rotary key": 64, "keys": 9, "values": 8,
    }  # fmt: skip
    said = words(latent.projections(widths))
    assert {"state, 7,168", "latent, 512", "rotary key, 64", "keys, 9"} <= set(said)


def test_seeds_draw_a_dot_a_run_and_light_one_kind():
    drawing = latent.seeds({"MLA": [1.0, 2.0], "MHA": [1.5, 1.6]}, "loss", lit="MLA")
    assert {"MLA", "MHA", "loss"} <= set(words(drawing))
    assert latent.spread([1.0, 3.0]) == pytest.approx((2.0, 2**0.5))


def test_expanding_brings_every_latent_up_and_absorbing_only_the_query():
    drawing = decoding.two_orders(5)
    assert {"expanded", "absorbed", "latents in the cache"} <= set(words(drawing))
    assert filled(drawing, COLORS["mla"]) == 2 * 5
    # Keys of five latents and one query; the query in both widths.
    assert filled(drawing, "#D0D0D0") == (5 + 1) + 2


def test_a_roofline_lights_latent_attention():
    points = {"MHA": 1.0, "MLA": 242.0}
    drawing = decoding.roofline(points, 989e12, 3.35e12, (737e12, 3e12))
    assert set(points) <= set(words(drawing))
    assert COLORS["mla"].lower() in drawing.svg.lower()


def test_hands_tell_their_turns_and_fill_what_was_seen():
    drawing = clocks.hands([0, 2], [652.0, 9.0, 0.25])
    assert {"pair 0", "pair 2", "652 turns", "0.25 turns"} <= set(words(drawing))


def test_steps_of_a_saving_are_printed():
    drawing = caches.two_steps({"before": 400.0, "latent": 70.0, "six bits": 26.0})
    assert {"before", "latent", "six bits"} <= set(words(drawing))
    assert any(word.strip() == "70" for word in words(drawing))
