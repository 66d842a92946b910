"""Their tokenizer of 256 tokens is our bytes, in both directions."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hub_models import DENSE, HEADS, SMALL, made

from tiny_lm import data, hub
from tiny_lm.config import ModelConfig
from tiny_lm.hub_tokenizer import files, letters, require_bytes

KINDS = {
    "deepseek_v3": SMALL,
    "llama": replace(DENSE, attention=HEADS),
    "glm4_moe": replace(SMALL, attention=HEADS),
}
TEXTS = [
    "",
    "def f(x):\n\treturn  x ,  'a' .",
    " leads with a space",
    "don't  . stop ?",
    "\x00\x7f\r\n\u00a0\u2028\ufeff",
    "naïve café, Ελληνικά, 漢字, e\u0301, 👩\u200d👩\u200d👧",
    "<s></s><|endoftext|><unk>[CLS]",
    "".join(map(chr, range(0x800))),
]


def _tokenizer(config: ModelConfig, folder: Path):
    from transformers import AutoTokenizer

    hub.export(made(config), folder / "out")
    return AutoTokenizer.from_pretrained(folder / "out")


def test_letters_are_printable_and_differ():
    assert len(set(letters())) == 256
    assert letters()[ord("A")] == "A"
    assert (letters()[0], letters()[32], letters()[10]) == ("Ā", "Ġ", "Ċ")
    assert all(letter.isprintable() and letter != " " for letter in letters())


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_bytes_and_come_back(kind, tmp_path):
    tokenizer = _tokenizer(KINDS[kind], tmp_path)
    assert len(tokenizer) == 256
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert ids == data.encode(text).tolist()
        assert tokenizer.decode(ids) == text
    for byte in range(256):
        assert tokenizer.decode([byte]) == bytes([byte]).decode(errors="replace")


def test_broken_utf8_shows_as_we_show_it(tmp_path):
    tokenizer, draw = _tokenizer(DENSE, tmp_path), random.Random(0)
    beginnings = [0x80, 0xC3, 0xE2, 0xED, 0xA0, 0xF0, 0x9F, 0xF4, 0xFF]
    for _ in range(2000):
        pool = [draw.randrange(256), *beginnings]
        raw = bytes(draw.choice(pool) for _ in range(draw.randrange(12)))
        assert tokenizer.decode(list(raw)) == raw.decode(errors="replace"), raw


def test_nothing_ends_a_text_but_its_length(tmp_path):
    tokenizer = _tokenizer(DENSE, tmp_path)
    assert tokenizer.model_max_length == DENSE.max_len
    assert tokenizer.all_special_tokens == []
    for name in ("config.json", "generation_config.json"):
        about = json.loads((tmp_path / "out" / name).read_text())
        ends = ("bos_token_id", "eos_token_id", "pad_token_id")
        assert [about[end] for end in ends] == [None] * 3


def test_tokens_that_are_not_bytes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no tokenizer.json: are its tokens bytes"):
        require_bytes(tmp_path)
    path, about = tmp_path / "tokenizer.json", files(SMALL)["tokenizer.json"]
    path.write_text(json.dumps(about))
    require_bytes(tmp_path)
    about["model"]["vocab"]["Ġthe"] = 256
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError, match="tokenizer.json: its tokens are not bytes"):
        require_bytes(tmp_path)
