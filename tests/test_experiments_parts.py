"""What recorded experiments are made of: the text, the products, who reads what."""

import lzma

import pytest
import torch

from tiny_lm.course.experiments import __main__ as command
from tiny_lm.course.experiments import plan
from tiny_lm.course.experiments.corpus import (
    DISTRIBUTIONS,
    MAX_FILE_BYTES,
    SHORT,
    Sources,
    gather,
    pack,
    unpack,
)
from tiny_lm.course.experiments.products import (
    BF16,
    ROW_MULTIPLE,
    check_grouped,
    precision,
    products_for,
)
from tiny_lm.course.experiments.readers import (
    CLASSES,
    choices_by_class,
    lexical_classes,
    windows,
)
from tiny_lm.data import Document
from tiny_lm.layers import PLAIN, Products
from tiny_lm.model import LanguageModel


@pytest.fixture(scope="module")
def sources() -> Sources:
    return gather(SHORT)


def _spelled(text: str) -> str:
    """The class of each byte, by one letter: n for names, o for other."""
    letters = dict(zip(CLASSES, "inkdscpo", strict=True))
    return "".join(letters[CLASSES[c]] for c in lexical_classes(text.encode()))


def test_the_corpus_is_every_text_once_in_the_order_of_its_name(sources):
    names = [d.name for d in sources.corpus.documents]
    texts = [d.text for d in sources.corpus.documents]
    assert names == sorted(names) and len(set(texts)) == len(texts)
    assert all(0 < len(text) <= MAX_FILE_BYTES for text in texts)
    assert all(name.endswith(".py") and "test" not in name for name in names)
    assert sources.versions.keys() == {"docutils"}


def test_every_library_of_the_corpus_is_installed_and_pinned():
    pins = (command.ROOT / "constraints.txt").read_text()
    for name in DISTRIBUTIONS:
        assert f"\n{name.replace('_', '-')}==" in pins
        assert gather([name]).corpus.num_bytes > 500_000


def test_a_library_that_is_missing_is_named():
    with pytest.raises(ValueError, match="the corpus needs no-such-library"):
        gather(["no-such-library"])


def test_a_packed_corpus_comes_back_byte_for_byte(sources, tmp_path):
    pack(sources, tmp_path / "corpus.xz")
    assert unpack(tmp_path / "corpus.xz") == sources


def test_the_command_packs_the_corpus(sources, tmp_path):
    path = tmp_path / "corpus.xz"
    command.main(["--short", "--pack-corpus", str(path)])
    assert unpack(path) == sources


def test_the_command_reads_a_packed_corpus(tmp_path, sources):
    path, again = tmp_path / "corpus.xz", tmp_path / "again.xz"
    some = Sources(type(sources.corpus)("some", sources.corpus.documents[:9]), {})
    pack(some, path)
    command.main(["--corpus", str(path), "--pack-corpus", str(again)])
    assert unpack(again) == some


def test_what_is_no_packed_corpus_is_refused(sources, tmp_path):
    path = tmp_path / "corpus.xz"
    with pytest.raises(ValueError, match="cannot read .*corpus.xz: No such file"):
        unpack(path)
    path.write_bytes(b"plain text")
    with pytest.raises(ValueError, match="corpus.xz is not a packed corpus"):
        unpack(path)
    with pytest.raises(ValueError, match="cannot write .*corpus.xz: File exists"):
        pack(sources, path)
    assert path.read_bytes() == b"plain text"
    path.unlink()
    pack(sources, path)
    text = lzma.decompress(path.read_bytes())
    path.write_bytes(lzma.compress(text[:-1]))
    with pytest.raises(ValueError, match="its SHA-256 differs"):
        unpack(path)


def _normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_bf16_products_are_near_fp32_ones_and_give_back_fp32():
    x, w = _normal(40, 64, seed=0), _normal(32, 64, seed=1).requires_grad_()
    y = BF16.linear(x, w)
    assert y.dtype == torch.float32
    error = (y - PLAIN.linear(x, w)).norm() / y.norm()
    assert 1e-5 < error < 5e-3
    y.sum().backward()
    assert w.grad.dtype == torch.float32


@pytest.mark.parametrize("products", [BF16, PLAIN], ids=["bf16", "fp32"])
def test_the_grouped_product_and_its_gradients_equal_a_loop(products):
    check_grouped(products, "cpu")


def test_a_wrong_grouped_product_is_noticed():
    def shifted(rows, weight, ends):
        return PLAIN.grouped(rows, weight.roll(1, 0), ends)

    with pytest.raises(RuntimeError, match="on cpu differs from a loop"):
        check_grouped(Products(PLAIN.linear, shifted), "cpu")


def test_a_gpu_multiplies_in_bf16_and_a_cpu_in_fp32():
    assert products_for("cuda") is BF16 and products_for("cpu") is PLAIN
    assert (precision("cuda"), precision("cpu")) == ("bf16 products", "fp32")


def test_a_model_of_bf16_products_learns_as_the_exact_one_does():
    tokens = torch.arange(2 * 65).view(2, 65) % 256
    exact = LanguageModel(plan.moe())
    rounded = LanguageModel(plan.moe(), products=BF16)
    assert rounded.blocks[1].ffn.dispatcher.row_multiple == ROW_MULTIPLE
    losses = [m.loss(tokens).total for m in (exact, rounded)]
    assert losses[0] != losses[1]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-3)
    for loss in losses:
        loss.backward()
    grads = [m.blocks[1].ffn.shared.down.weight.grad for m in (exact, rounded)]
    assert (grads[0] - grads[1]).norm() < 0.05 * grads[0].norm()


def test_each_byte_has_the_class_that_the_tokenizer_gives_it():
    text = "if a:\n  b = 'x' # c\n"
    assert _spelled(text) == "kkonpo" + "iinoposssoccco"
    assert _spelled("0x1F+1.5\n") == "ddddpddd" + "o"


def test_margins_are_indentation_on_every_line_but_within_a_string():
    text = 'if a:\n  b\n  c\n  """d\n  e"""\n'
    assert (
        _spelled(text) == "kkonpo" + "iino" + "iino" + "iissss" + "s" + "ssssss" + "o"
    )


def test_a_formatted_string_is_one_string_in_every_version_of_python():
    text = "x = f'a{b + 1:{w}}' + f'{f\"{c}\"}'\n"
    wanted = "nopo" + "s" * 15 + "opo" + "s" * 11 + "o"
    assert _spelled(text) == wanted


def test_places_are_counted_in_bytes():
    assert _spelled("é = 'ß'  # ü\n") == "nnopossssoocccco"


def test_what_is_not_python_is_refused():
    for text in (b"(", b"if a:\n\tb\n  c\n", b"'''"):
        with pytest.raises(ValueError, match="not a Python file"):
            lexical_classes(text)


def test_windows_are_whole_and_skip_what_is_not_python():
    documents = [
        Document("a", b"x = 1\n" * 5),
        Document("b", b"("),
        Document("c", b"y"),
    ]
    tokens, classes = windows(documents, seq_len=8, max_bytes=1000)
    assert tokens.shape == classes.shape == (3, 8)
    assert bytes(tokens.flatten().tolist()) == (b"x = 1\n" * 5)[:24]
    assert classes.flatten().tolist() == lexical_classes(b"x = 1\n" * 5)[:24].tolist()
    assert len(windows(documents, seq_len=8, max_bytes=17)[0]) == 2
    with pytest.raises(ValueError, match="no Python file holds 64 bytes"):
        windows(documents, seq_len=64, max_bytes=1000)


def test_each_choice_counts_for_the_class_of_the_byte_that_was_read():
    model = LanguageModel(plan.moe()).eval()
    tokens = torch.arange(5 * 16).view(5, 16) + 32
    classes = tokens % len(CLASSES)
    chosen = []
    for router in model.routers:
        router.register_forward_hook(lambda _, args, out: chosen.append(out[1]))
    model(tokens)
    wanted = torch.zeros(3, 16, len(CLASSES), dtype=torch.int64)
    for layer, experts in enumerate(chosen):
        for place, kind in zip(experts.flatten(0, 1), classes.flatten(), strict=True):
            wanted[layer, place, kind] += 1
    whole = choices_by_class(model, tokens, classes)
    parts = choices_by_class(model, tokens, classes, batch_size=2)
    assert torch.equal(whole, wanted) and torch.equal(parts, wanted)
