"""The picture of released weights shows every block, and those that are cut."""

import re

from tiny_lm.course.figures.released import SHOWN, blocks_and_scales


def _words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_a_weight_has_a_scale_a_block_and_its_last_blocks_may_be_lower():
    drawing = blocks_and_scales(576, 128)
    words = _words(drawing.svg)
    assert words.count("128 rows") == 4 and words.count("64 rows") == 1
    filled = re.findall(r"fill: (#[0-9a-f]{6})", drawing.svg)
    scales = filled.count("#222222") - len(words)  # words are of that ink too
    assert filled.count("#d55e00") == scales == 5 * SHOWN
    assert drawing.narrow
    assert _words(blocks_and_scales(256, 128).svg).count("128 rows") == 2
