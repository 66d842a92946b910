"""Products by oneDNN against the plain ones."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from tiny_lm import matmul
from tiny_lm.gpus.launch import run_ranks
from tiny_lm.matmul import HAS_ONEDNN
from tiny_lm.processor import Processor, this_processor
from tiny_lm.replay.recorder import recording

SHAPES = [(5, 3, 2), (64, 32, 96), (64, 96, 32), (1, 7, 7)]


def _normal(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


@pytest.fixture
def calls(monkeypatch) -> Iterator[list[str]]:
    """One word for each call of oneDNN's operator, which is chosen."""
    made: list[str] = []
    real = matmul._onednn
    count = lambda a, b: made.append("onednn") or real(a, b)  # noqa: E731
    monkeypatch.setattr(matmul, "_onednn", count)
    with matmul.multiplying_by("onednn"):
        yield made


@pytest.fixture(params=matmul.LIBRARIES)
def library(request) -> Iterator[str]:
    """Each library in turn, whichever is the faster here."""
    with matmul.multiplying_by(request.param):
        yield request.param


def test_onednn_is_for_cores_whose_wide_vectors_mkl_leaves_unused():
    for maker, family, vectors, wanted in [
        ("AuthenticAMD", 26, "AVX512", "onednn"),  # Zen 5
        ("AuthenticAMD", 26, "AVX2", "plain"),
        ("AuthenticAMD", 25, "AVX512", "plain"),  # Zen 4
        ("GenuineIntel", 6, "AVX512", "plain"),
        ("", 0, "DEFAULT", "plain"),
    ]:
        here = Processor(maker, family, vectors)
        assert matmul.faster_library(here) == (wanted if HAS_ONEDNN else "plain")


def test_the_choice_is_the_rules_in_this_process_and_in_every_rank():
    chosen = matmul.faster_library(this_processor())
    assert matmul.library() == chosen
    assert run_ranks(2, _library_of_rank) == [chosen] * 2


def _library_of_rank(rank: int) -> str:
    return matmul.library()


def test_a_pytorch_without_the_private_operator_multiplies_plainly(monkeypatch):
    for other in (SimpleNamespace(), _operator("X", "W", "B")):
        monkeypatch.setattr(torch.ops, "mkldnn", other)
        assert not matmul._has_onednn()


def _operator(*names: str) -> SimpleNamespace:
    """oneDNN's operator as another PyTorch may have it: with other arguments."""
    arguments = [SimpleNamespace(name=name) for name in names]
    schema = SimpleNamespace(arguments=arguments)
    call = SimpleNamespace(default=SimpleNamespace(_schema=schema))
    return SimpleNamespace(_linear_pointwise=call)


def test_a_library_is_used_inside_the_with_and_an_unknown_one_is_refused():
    before = matmul.library()
    for name in matmul.LIBRARIES:
        with matmul.multiplying_by(name):
            assert matmul.library() == name
        assert matmul.library() == before
    with (
        pytest.raises(ValueError, match="no library 'blas' here: plain"),
        matmul.multiplying_by("blas"),
    ):
        pass


def test_times_multiplies_by_the_transpose():
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    assert matmul.times(a, b).tolist() == [[11.0, 17.0]]


def test_outer_sums_over_rows():
    a, b = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[3.0], [4.0]])
    assert matmul.outer(a, b).tolist() == [[3.0], [10.0]]


@pytest.mark.parametrize(("n", "k", "m"), SHAPES)
def test_both_products_equal_the_plain_ones(n, k, m, library):
    a, b, g = _normal(n, k), _normal(m, k, seed=1), _normal(n, m, seed=2)
    exact = a.double() @ b.double().T
    assert torch.allclose(matmul.times(a, b).double(), exact, atol=1e-4)
    assert torch.allclose(
        matmul.times(g, b.T).double(), g.double() @ b.double(), atol=1e-4
    )
    exact = g.double().T @ a.double()
    assert torch.allclose(matmul.outer(g, a).double(), exact, atol=1e-4)


def test_linear_equals_torchs_forward_and_backward(library):
    grad = _normal(2, 5, 6, seed=2)
    results = []
    for product in (matmul.linear, F.linear):
        x = _normal(2, 5, 3).requires_grad_()
        weight = _normal(6, 3, seed=1).requires_grad_()
        y = product(x, weight)
        y.backward(grad)
        results.append((y, x.grad, weight.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_linear_computes_only_the_gradients_that_are_asked_for(library):
    x, weight = _normal(5, 3), _normal(6, 3, seed=1).requires_grad_()
    matmul.linear(x, weight).sum().backward()
    assert x.grad is None and weight.grad.shape == (6, 3)


@pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN")
def test_where_onednn_is_chosen_fp32_goes_to_it_and_other_dtypes_do_not():
    x, weight = _normal(4, 3), _normal(2, 3)
    with matmul.multiplying_by("onednn"), torch.profiler.profile() as profile:
        matmul.linear(x, weight)
        matmul.linear(x.double(), weight.double())
    called = {event.key: event.count for event in profile.key_averages()}
    assert called["mkldnn::_linear_pointwise"] == 1
    assert called["aten::linear"] == 1


def test_to_a_recorder_a_product_is_the_same_by_either_library(library):
    x, weight = _normal(4, 3).requires_grad_(), _normal(2, 3).requires_grad_()
    with recording(0) as recorder:
        matmul.linear(x, weight).backward(torch.ones(4, 2))
    tape = [r for r in recorder.tape().records if r.flops]
    forward, backward = [("mm", 48)], [("mm backward", 48)] * 2
    assert [(r.name, r.flops) for r in tape] == forward + backward


def test_no_rows_give_no_rows_and_a_gradient_of_zeros(library):
    x, weight = _normal(0, 3).requires_grad_(), _normal(6, 3).requires_grad_()
    y = matmul.linear(x, weight)
    y.sum().backward()
    assert y.shape == (0, 6)
    assert torch.equal(weight.grad, torch.zeros(6, 3))


def _ends(counts: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(counts).cumsum(0).int()


def _with_gradients(product, counts, dtype=torch.float32) -> list[torch.Tensor]:
    rows = _normal(sum(counts), 8, dtype=dtype).requires_grad_()
    weight = _normal(len(counts), 16, 8, seed=1, dtype=dtype).requires_grad_()
    y = product(rows, weight, _ends(counts))
    y.backward(_normal(*y.shape, seed=2, dtype=dtype))
    return [y.detach(), rows.grad, weight.grad]


def test_grouped_rows_meet_the_matrix_of_their_expert():
    rows = torch.tensor([[1.0], [2.0], [3.0]]) * torch.ones(4)
    weight = torch.tensor([1.0, 10.0]).view(2, 1, 1) * torch.ones(4, 4)
    y = matmul.grouped_linear(rows, weight, _ends((1, 2)))
    assert y[:, 0].tolist() == [4.0, 80.0, 120.0]


@pytest.mark.parametrize("worth", [0, 10**12])
@pytest.mark.parametrize(
    "counts",
    [(32, 16, 48), (16, 0, 64), (0, 0, 16), (3, 0, 7), (16, 5, 11), (0, 0, 0)],
    ids=str,
)
def test_grouped_linear_equals_a_loop_forward_and_backward(
    counts, worth, library, monkeypatch
):
    monkeypatch.setattr(matmul, "WORTH_A_CALL", worth)
    ours = _with_gradients(matmul.grouped_linear, counts)
    slow = _with_gradients(matmul.grouped_loop, counts)
    for fast, wanted in zip(ours, slow, strict=True):
        assert torch.allclose(fast, wanted, atol=1e-5)
    for expert, count in enumerate(counts):
        assert count or not ours[2][expert].any()


@pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN")
def test_onednn_multiplies_where_experts_are_large_and_their_rows_padded(
    calls, monkeypatch
):
    size = 16 * 8 * 16  # of one expert's product: rows times both widths
    for counts, worth, forward, backward in [
        ((16, 16), size, 2, 2),  # a weight's gradient pays from twice the size
        ((16, 16), size // 2, 2, 4),
        ((16, 16), size + 1, 0, 0),
        ((0, 32), size // 2, 1, 2),  # nobody chose expert 0
        ((15, 17), size // 2, 0, 0),  # a program for any number of rows: too many
    ]:
        monkeypatch.setattr(matmul, "WORTH_A_CALL", worth)
        calls.clear()
        _with_gradients(matmul.grouped_linear, counts)
        assert len(calls) == forward + backward, (counts, worth)
        calls.clear()
        _with_gradients(matmul.grouped_linear, counts, torch.float64)
        assert not calls


def test_the_gradient_of_a_plain_sum_reaches_all_experts(library):
    rows, weight = _normal(4, 8), _normal(2, 4, 8, seed=1).requires_grad_()
    matmul.grouped_linear(rows, weight, _ends((1, 3))).sum().backward()
    wanted = torch.stack([rows[:1].sum(0), rows[1:].sum(0)]).unsqueeze(1)
    assert torch.allclose(weight.grad, wanted.expand(2, 4, 8), atol=1e-5)
    assert rows.grad is None
