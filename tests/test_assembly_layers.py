"""Layers, products and text of pieces, each beside the package's own."""

from dataclasses import replace

import pytest
import torch
from piece_styles import small, sources
from torch import nn

from tiny_lm import fp8, generate
from tiny_lm.course.assembly.attentions import YourHeads, YourLatentAttention
from tiny_lm.course.assembly.chosen import Chosen
from tiny_lm.course.assembly.kept import Assembly
from tiny_lm.course.assembly.mixture import YourExperts, YourRouter
from tiny_lm.course.assembly.products import products
from tiny_lm.course.assembly.turns import TakesTurns
from tiny_lm.course.assembly.writing import likeliest, write
from tiny_lm.model import LanguageModel, is_expert
from tiny_lm.replay.recorder import recording

STYLES = pytest.mark.parametrize("style", range(4))


def pair(kind, style, **options):
    """tiny_lm's model and that of the pieces, with the same weights."""
    config = replace(small(kind), **options)
    return LanguageModel(config), Assembly(sources(style)).model(config)


def test_a_piece_that_is_missing_is_the_check_s_own_and_one_that_is_there_is_not():
    chosen = Chosen({"moe.update_bias": "def update_bias(*given):\n    return given\n"})
    assert chosen("moe.update_bias")(1, 2) == (1, 2)
    assert chosen("moe.gate") is Chosen()("moe.gate")
    assert chosen.has("moe.gate", "moe.update_bias")
    assert not chosen.has("moe.gate")


def test_a_model_of_pieces_consists_of_their_classes():
    _, model = pair("fp8", 0)
    block = model.blocks[1]
    assert type(block.attention) is YourLatentAttention
    assert type(block.ffn.router) is YourRouter
    assert type(block.ffn.experts) is YourExperts
    _, dense = pair("dense", 0)
    assert type(dense.blocks[0].attention) is YourHeads


def test_without_pieces_every_part_is_tiny_lm_s_own():
    ours, model = LanguageModel(small("fp8")), Assembly().model(small("fp8"))
    kinds = [[type(m) for m in some.modules()] for some in (ours, model)]
    assert kinds[0] == kinds[1]


@STYLES
@pytest.mark.parametrize("kind", ["dense", "fp32", "fp8"])
def test_token_by_token_they_say_what_they_say_at_once(kind, style):
    ours, model = pair(kind, style)
    tokens = torch.randint(97, 123, (1, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = ours(tokens)
        context = model.new_context(1, 12)
        parts = [model(part, context) for part in tokens.split([7, 1, 1, 3], dim=1)]
    near = 0.2 if kind == "fp8" else 1e-4  # a folded product is not rounded
    torch.testing.assert_close(torch.cat(parts, 1), wanted, atol=near, rtol=0)


def test_a_batch_of_unequal_lengths_is_read_as_by_tiny_lm():
    ours, model = pair("fp32", 1)
    prompts = [torch.tensor([104, 105, 106, 107]), torch.tensor([108])]
    written = [
        list(generate.stream_batch(one, prompts, 5, seed=3)) for one in (ours, model)
    ]
    assert written[0] == written[1]


@STYLES
def test_text_is_drawn_as_by_tiny_lm_and_the_likeliest_is_found(style):
    ours, model = pair("fp32", style)
    mine = Assembly(sources(style))
    given = "def ", 12, 0.8, 0.9, 3
    assert write(mine, model, *given) == generate.generate(ours, *given)
    coldest = generate.generate(ours, "def ", 12, 1e-6, 1.0)
    assert likeliest(mine, model, "def ", 12) == coldest


@STYLES
def test_products_are_the_fp8_products_there_and_back_and_in_codes(style):
    config = small("fp8").fp8
    multiply = products(Chosen(sources(style)), config).linear
    draw = torch.Generator().manual_seed(2)
    x, w = torch.randn(2, 9, 40, generator=draw), torch.randn(24, 40, generator=draw)
    pull, found = torch.randn(2, 9, 24, generator=draw), []
    for product in (multiply, lambda x, w: fp8.matmul(x, w, 16, 16)):
        leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = product(*leaves)
        found.append([y.detach(), *torch.autograd.grad(y, leaves, pull)])
        with torch.no_grad():
            found[-1].append(product(x, w))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_experts_without_a_row_get_no_gradient_and_do_no_harm():
    for kind in ("fp32", "fp8"):
        experts = pair(kind, 1)[1].blocks[1].ffn.experts
        for counts in ([0, 3, 0, 0, 2, 0, 0, 0], [0] * 8):
            rows = torch.randn(sum(counts), 32, requires_grad=True)
            ends = torch.tensor(counts).cumsum(0).int()
            experts.zero_grad()
            experts(rows, ends).sum().backward()
            idle = torch.tensor(counts) == 0
            assert experts.down.grad[idle].abs().sum() == 0
            assert experts.down.grad[~idle].abs().sum() > 0 or not any(counts)


def test_a_chip_is_charged_with_the_kernels_that_tiny_lm_charges():
    """FP8 products and attention: the work that stands for what a CPU emulates."""
    tokens = torch.randint(97, 123, (2, 17), generator=torch.Generator().manual_seed(1))
    totals = []
    for model in pair("fp8", 1):
        with recording(0, model) as recorder:
            model.loss(tokens).total.backward()
        kernels = [r for r in recorder.tape().records if hasattr(r, "flops")]
        totals.append(
            {
                kind: sum(k.flops for k in kernels if kind in _words(k.name)[1:])
                for kind in ("fprop", "dgrad", "wgrad", "attention")
            }
        )
    assert totals[0] == totals[1]
    assert all(totals[0].values())


def _words(name):
    """A kernel's module, its own name, and which way it goes."""
    return name.rpartition(".")[2].split()


def test_codes_of_a_weight_are_made_once_until_it_changes():
    multiply = products(Chosen(sources()), small("fp8").fp8)
    w, stack = torch.randn(32, 16), torch.randn(3, 32, 16)
    x, ends = torch.randn(4, 16), torch.tensor([1, 1, 4], dtype=torch.int32)
    with torch.no_grad():
        for _ in range(2):
            first = multiply.linear(x, w), multiply.grouped(x, stack, ends)
        made = len(multiply.linear._codes)
        assert made == 1 + 2  # the weight, and those of two experts with rows
        w.mul_(2), stack.mul_(2)
        again = multiply.linear(x, w), multiply.grouped(x, stack, ends)
    assert len(multiply.linear._codes) == made
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(2 * one, other)


def test_two_micro_batches_are_for_training_alone():
    model = Assembly(sources()).model(small("fp32"), overlap=True)
    assert type(model) is TakesTurns
    tokens = torch.randint(97, 123, (2, 8), generator=torch.Generator().manual_seed(1))
    ours = LanguageModel(small("fp32"))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), ours(tokens))


def test_state_goes_into_tiny_lm_s_own_model_and_back():
    ours, model = pair("fp8", 2)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.1)
    ours.load_state_dict(model.state_dict())
    names = [name for name, _ in model.named_parameters()]
    assert names == [name for name, _ in ours.named_parameters()]
    assert any(map(is_expert, names))
