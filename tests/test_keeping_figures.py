"""The picture of what a checkpoint holds says what the checkpoint says."""

import re

from tiny_lm.course.figures import keeping

TENSORS = {
    "model.blocks.1.ffn.experts.gate_up": {
        "size": 600,
        "spans": [[0, 300, "0.safetensors"], [300, 300, "1.safetensors"]],
    },
    "model.head.weight": {"size": 200, "spans": [[0, 200, "1.safetensors"]]},
}


def test_rows_show_who_wrote_and_who_reads_what():
    words = re.findall(r"<text[^>]*>([^<]*)</text>", keeping.rows(TENSORS).svg)
    assert words.count("0.safetensors") == 1 and words.count("1.safetensors") == 2
    assert {f"rank {reader}" for reader in range(4)} <= set(words)
    assert "a matrix of all experts: 600 numbers" in words
    assert "the head: 200 numbers" in words
    assert words.count("all ranks, each the whole row") == 1
