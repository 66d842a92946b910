"""Bytes as a tokenizer that everybody reads: 256 tokens, nothing to merge.

Chapter: 06_together/into_the_ecosystem
Source: transformers

Libraries of tokenizers hold text, and a byte is no character. So they write every byte
as one printable letter, by a table that GPT-2 made: those that print as they are, the
68 others as the letters from U+0100 on. A vocabulary of these letters, in the order of
their bytes, is ours; merges would make longer tokens, and there are none.
"""

from pathlib import Path
from typing import Any

from tiny_lm.config import ModelConfig
from tiny_lm.files import read_json

PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))


def letters() -> list[str]:
    """The letter that stands for each byte."""
    hidden = [byte for byte in range(256) if byte not in PRINTABLE]
    by_byte = {byte: chr(byte) for byte in PRINTABLE}
    by_byte |= {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    return [by_byte[byte] for byte in range(256)]


def files(config: ModelConfig) -> dict[str, Any]:
    """What the files of a tokenizer, and of generation, say.

    Raises:
        ValueError: the model has fewer tokens than there are bytes.
    """
    if config.vocab_size < 256:
        raise ValueError(f"bytes have 256 values, vocab_size={config.vocab_size}")
    return {
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,  # else " ," would lose its space
            "model_max_length": config.max_len,
        },
        "generation_config.json": {
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        },
    }


def require_bytes(folder: Path) -> None:
    """Make sure that the tokens of a folder are bytes.

    Raises:
        ValueError: they are not, or nothing says what they are.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no tokenizer.json: are its tokens bytes?")
    about = read_json(path)
    ours = _tokenizer()
    if not isinstance(about, dict) or any(about.get(k) != ours[k] for k in ours):
        raise ValueError(f"{path}: its tokens are not bytes, and ours are nothing else")


def _tokenizer() -> dict[str, Any]:
    by_bytes = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    by_bytes["trim_offsets"] = True
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": by_bytes,
        "post_processor": None,
        "decoder": by_bytes,
        "model": {
            "type": "BPE",
            "vocab": {letter: byte for byte, letter in enumerate(letters())},
            "merges": [],
        },
    }
