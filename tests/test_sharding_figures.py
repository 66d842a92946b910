"""Pictures of sharding: what stands in them, and what they are named."""

import re

from tiny_lm.course.figures.sharding import exposed_by_buckets, two_halves


def _words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_every_number_of_a_step_by_hand_stands_in_its_picture():
    picture = two_halves(
        [[1, 2, 0, 4], [3, 0, 2, 4]], [4, 2, 2, 8], [5, 2, 4, 8], [-0.5, 1.8, 2.6, 3.2]
    )
    words = _words(picture.svg)
    for number in ("\N{MINUS SIGN}0.5", "1.8", "2.6", "3.2"):
        assert words.count(number) == 2  # on both ranks
    assert words.count("5") == 1  # a moment is on one
    assert {"rank 0", "rank 1", "gradients", "weights"} <= set(words)
    assert picture.narrow


def test_lines_of_exposed_time_are_named_and_start_at_zero():
    lines = {
        "all-reduce": [9.0, 4.0, 5.0],
        "ZeRO-1": [9.0, 5.0, 6.0],
        "ZeRO-1, α × 30": [9, 7, 9],
    }
    words = _words(exposed_by_buckets([1, 4, 16], lines).svg)
    assert set(lines) <= set(words)
    assert {"1", "4", "16", "0", "buckets"} <= set(words)
