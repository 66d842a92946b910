"""Bytes, corpora, splits and batches."""

import hashlib
import os

import pytest
import torch

from tiny_lm.data import (
    Batches,
    Corpus,
    Document,
    EvalBatches,
    decode,
    default_corpus,
    encode,
    load_corpus,
    split,
    validation_names,
)


@pytest.fixture(scope="module")
def standard_library() -> Corpus:
    return default_corpus()


def _counting(length: int) -> torch.Tensor:
    """Byte number i is i, so that a window tells where it was cut."""
    return torch.arange(length).to(torch.uint8)


def _corpus(**documents: str) -> Corpus:
    texts = (Document(name, text.encode()) for name, text in documents.items())
    return Corpus("made up", tuple(texts))


def test_a_token_is_one_byte_of_utf_8():
    assert encode("aß").tolist() == [97, 0xC3, 0x9F]
    assert encode("").tolist() == []
    assert encode("a").dtype == torch.int64


def test_decoding_undoes_encoding_in_any_language():
    text = "naïve 模型 🙂\n"
    assert decode(encode(text)) == text
    assert decode(encode(text).to(torch.uint8)) == text


def test_bytes_that_spell_no_character_are_shown_as_such():
    assert decode(torch.tensor([97, 0xC3])) == "a\ufffd"
    every_byte = decode(torch.arange(256))
    assert every_byte.startswith("\0\x01") and every_byte.count("\ufffd") == 128


def test_a_corpus_is_its_documents_with_a_line_feed_between():
    corpus = _corpus(a="one", b="two")
    assert corpus.text == b"one\ntwo"
    assert corpus.num_bytes == 7
    assert corpus.sha256 == hashlib.sha256(b"one\ntwo").hexdigest()


def test_the_default_corpus_is_a_few_megabytes_of_python_and_help(standard_library):
    assert 3e6 < standard_library.num_bytes < 7e6
    documents = {d.name: d.text for d in standard_library.documents}
    assert b"class JSONDecodeError" in documents["json/decoder.py"]
    assert b"Boolean operations" in documents["topics/booleans"]
    assert list(documents) == sorted(documents)
    assert b"\r\n" not in standard_library.text
    standard_library.text.decode()


def test_the_default_corpus_is_the_same_every_time(standard_library):
    assert default_corpus().sha256 == standard_library.sha256


def test_a_file_is_a_corpus_of_one_document(tmp_path):
    (tmp_path / "poem.txt").write_text("roses\n", encoding="utf-8")
    corpus = load_corpus(tmp_path / "poem.txt")
    assert corpus.documents == (Document("poem.txt", b"roses\n"),)
    assert load_corpus(str(tmp_path / "poem.txt")) == corpus


def test_a_folder_is_read_in_order_and_names_what_is_not_text(tmp_path):
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.txt").write_text("one")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "image.png").write_bytes(b"a\0b")
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("no")
    corpus = load_corpus(tmp_path)
    assert [d.name for d in corpus.documents] == ["a/z.txt", "b.txt"]
    assert corpus.skipped == ("image.png", "latin.txt")
    assert corpus.name == tmp_path.name


def test_validation_is_whole_documents_of_about_a_twentieth(standard_library):
    train, validation = split(standard_library)
    share = len(validation) / standard_library.num_bytes
    assert 0.04 < share <= 0.051
    text, kept = bytes(train.tolist()), bytes(validation.tolist())
    for document in standard_library.documents:
        if len(document.text) > 1000:
            assert (document.text in text) != (document.text in kept)


def test_the_validation_names_are_those_of_the_validation_text(standard_library):
    room = standard_library.num_bytes // 20
    names = validation_names(standard_library, room)
    kept = [d.text for d in standard_library.documents if d.name in names]
    assert b"\n".join(kept) == bytes(split(standard_library)[1].tolist())
    assert sum(map(len, kept)) <= room
    assert validation_names(standard_library, 0) == set()


def test_the_split_depends_on_names_and_not_on_the_order_of_documents():
    documents = tuple(Document(f"{i}", b"%03d" % i * 10) for i in range(100))
    forward = split(Corpus("made up", documents))[1]
    backward = split(Corpus("made up", documents[::-1]))[1]
    renamed = tuple(Document("x" + d.name, d.text) for d in documents)
    lines = set(decode(forward).split("\n"))
    assert lines == set(decode(backward).split("\n"))
    assert lines != set(decode(split(Corpus("made up", renamed))[1]).split("\n"))


def test_of_one_file_the_last_twentieth_is_validation():
    train, validation = split(_corpus(only="ab" * 100))
    assert len(train) == 190
    assert decode(validation) == "ab" * 5
    assert train.dtype == validation.dtype == torch.uint8


def test_both_parts_hold_at_least_one_sequence():
    train, validation = split(_corpus(only="x" * 300), min_bytes=129)
    assert (len(train), len(validation)) == (171, 129)
    train, validation = split(_corpus(big="x" * 300, small="y" * 14), min_bytes=129)
    assert (len(train), len(validation)) == (315 - 129, 129)


def test_a_batch_is_windows_of_neighbours_with_one_byte_to_predict():
    batch = Batches(_counting(200), batch_size=8, seq_len=5).at(0)
    assert batch.shape == (8, 6)
    assert batch.dtype == torch.int64
    assert (batch == batch[:, :1] + torch.arange(6)).all()


def test_every_window_of_the_text_can_be_drawn():
    batches = Batches(_counting(10), batch_size=64, seq_len=5)
    assert batches.at(0)[:, 0].unique().tolist() == [0, 1, 2, 3, 4]
    whole = Batches(_counting(6), batch_size=2, seq_len=5).at(0)
    assert whole.tolist() == [[0, 1, 2, 3, 4, 5]] * 2


@pytest.mark.parametrize("size", [1, 2, 4])
def test_any_number_of_ranks_shares_the_same_global_batch(size):
    training = Batches(_counting(200), batch_size=8, seq_len=5, seed=3)
    validation = EvalBatches(_counting(200), batch_size=8, seq_len=5, num_batches=2)
    for batches in (training, validation):
        shares = [batches.at(1, rank, size) for rank in range(size)]
        assert {len(share) for share in shares} == {8 // size}
        assert torch.equal(torch.cat(shares), batches.at(1))


def test_a_batch_depends_on_seed_and_step_alone():
    def batch(seed: int, step: int) -> torch.Tensor:
        return Batches(_counting(200), batch_size=8, seq_len=5, seed=seed).at(step)

    before = torch.get_rng_state()
    assert torch.equal(batch(0, 0), batch(0, 0))
    assert not torch.equal(batch(0, 0), batch(1, 0))
    assert not torch.equal(batch(0, 0), batch(0, 1))
    assert not torch.equal(batch(0, 1), batch(1, 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_windows_are_fixed_and_span_the_text():
    batches = EvalBatches(_counting(106), batch_size=2, seq_len=5, num_batches=3)
    starts = torch.cat([batches.at(index) for index in range(len(batches))])[:, 0]
    assert starts.tolist() == [0, 20, 40, 60, 80, 100]


def test_a_token_that_is_no_byte_cannot_be_decoded():
    with pytest.raises(ValueError, match="range"):
        decode(torch.tensor([256]))


def test_half_a_surrogate_pair_cannot_be_encoded():
    with pytest.raises(ValueError, match="surrogates not allowed"):
        encode("\ud800")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or folder: .*data.txt"),
        (b"", "empty file: .*data.txt"),
        (b"caf\xe9", "not UTF-8 text: .*data.txt, byte 0xe9 at offset 3"),
        (b"ab\0", "binary file: .*data.txt has a zero byte at offset 2"),
    ],
)
def test_a_file_that_is_no_text_is_refused_by_name_and_offset(
    tmp_path, content, message
):
    if content is not None:
        (tmp_path / "data.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_corpus(tmp_path / "data.txt")


def test_a_folder_without_text_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match="no text in folder .*: every file .* empty"):
        load_corpus(tmp_path)
    (tmp_path / "data.bin").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="no text .*data.bin, byte 0xff at offset 0"):
        load_corpus(tmp_path)


def test_a_device_is_neither_a_file_nor_a_folder():
    with pytest.raises(ValueError, match="neither a file nor a folder: "):
        load_corpus(os.devnull)


def test_what_may_not_be_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "data.txt").write_text("text")

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(ValueError, match="cannot read .*data.txt: Permission denied"):
        load_corpus(tmp_path / "data.txt")
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(ValueError, match="cannot read .*: Permission denied"):
        load_corpus(tmp_path)


def test_a_text_too_short_for_two_parts_is_refused():
    with pytest.raises(ValueError, match="has 257 bytes, and .* need 129 each"):
        split(_corpus(only="x" * 257), min_bytes=129)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seq_len": 10}, "seq_len=10 is longer than the data: 11 bytes .*, 10 came"),
        ({"seq_len": 0}, "batch_size=4 and seq_len=0 must be positive"),
        ({"batch_size": 0}, "batch_size=0 and seq_len=5 must be positive"),
    ],
)
def test_batches_that_cannot_be_cut_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Batches(_counting(10), **({"batch_size": 4, "seq_len": 5} | arguments))


def test_at_least_one_validation_batch_is_wanted():
    with pytest.raises(ValueError, match="num_batches=0 must be positive"):
        EvalBatches(_counting(10), batch_size=4, seq_len=5, num_batches=0)


@pytest.mark.parametrize(
    ("rank", "size", "message"),
    [
        (0, 3, "3 ranks cannot share 4 sequences"),
        (2, 2, "rank=2 must lie between 0 and 1"),
        (-1, 2, "rank=-1 must lie between 0 and 1"),
    ],
)
def test_a_share_that_does_not_exist_is_refused(rank, size, message):
    batches = Batches(_counting(10), batch_size=4, seq_len=5)
    with pytest.raises(ValueError, match=message):
        batches.at(0, rank, size)
