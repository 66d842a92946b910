"""Chunks: kernels by hand, FLOPs and parameters against the closed forms."""

from dataclasses import replace

import pytest

from tiny_lm.config import deepseek_v2, deepseek_v3, tiny, tiny_dense
from tiny_lm.costs import count_parameters
from tiny_lm.counts import attention_core_flops
from tiny_lm.parallel.chunks import RECOMPUTED, Linear, Shape, build_chunk
from tiny_lm.replay.tape import Kernel


def chunk(config, layers=None, last=True, ranks=1, tensor=1, tokens=256):
    shape = Shape(config, tokens, 128, ranks, tensor)
    return build_chunk(shape, layers or range(config.num_layers), last)


def flops(pieces, field="kernels"):
    kernels = [k for piece in pieces for k in getattr(piece, field)]
    return sum(k.flops for k in kernels if not k.name.startswith(RECOMPUTED))


def test_a_product_by_hand():
    """Ten rows of 3 numbers become 5, with two sets of weights on this GPU."""
    linear = Linear("x", ((3, 5),), 10, "fp8", copies=2)
    assert linear.num_parameters == 30
    assert linear.forward() == [
        Kernel("x traffic", 0, (2 + 1) * 30),
        Kernel("x F", 2 * 10 * 15, 30 + 30 + 2 * 50, "fp8"),
    ]
    assert linear.backward() == [
        Kernel("x traffic", 0, (2 + 1) * (50 + 30)),
        Kernel("x B", 2 * 10 * 15, 50 + 30 + 2 * 30, "fp8"),
    ]
    assert linear.weights() == [
        Kernel("x traffic", 0, 2 * 30 + (2 + 1) * 50),
        Kernel("x W", 2 * 10 * 15, 30 + 50 + 2 * 4 * 30, "fp8"),
    ]


def test_a_product_in_bf16_moves_two_bytes_a_number():
    assert Linear("x", ((3, 5),), 10, "bf16").forward() == [
        Kernel("x traffic", 0, (2 + 2) * 30),
        Kernel("x F", 300, 2 * (30 + 15 + 50)),
    ]


def test_what_the_backward_computes_again_is_a_kernel_of_its_own():
    first, *others = Linear("x", ((3, 5),), 10, "fp8", again=((3, 5),)).backward()
    assert first == Kernel("recompute x", 300, 2 * 50, "fp8")
    assert others == Linear("x", ((3, 5),), 10, "fp8").backward()


@pytest.mark.parametrize(
    "config",
    [tiny(), tiny_dense(), replace(tiny(), num_mtp=1), deepseek_v3(), deepseek_v2()],
    ids=lambda c: f"{c.name} {c.num_mtp}",
)
def test_parameters_are_those_that_the_closed_form_counts(config):
    """Norms apart, which have no product, and the heads, which MTP shares."""
    made, counted = chunk(config), count_parameters(config).by_part
    mtp_norms = config.num_mtp * 3 * config.d_model
    norms = counted["norms"] // config.num_layers * (config.num_layers + config.num_mtp)
    wanted = sum(counted.values()) - norms - mtp_norms
    have = made.shared_parameters + made.expert_parameters
    assert have == pytest.approx(wanted, rel=1e-5 if config.num_mtp else 1e-7, abs=200)


def test_experts_are_divided_over_their_ranks_and_their_rows_are_not():
    whole, share = chunk(tiny()), chunk(tiny(), ranks=4)
    assert share.expert_parameters * 4 == whole.expert_parameters
    assert share.shared_parameters == whole.shared_parameters
    assert flops(share.forward) == flops(whole.forward)


def test_the_backward_has_twice_the_flops_of_the_forward():
    made = chunk(replace(tiny(), num_mtp=1))
    there, back = flops(made.forward), flops(made.backward)
    weights = flops(made.backward, "weights")
    assert back + weights == 2 * there
    core = 5 * 256 * attention_core_flops(tiny().attention, 1) * 128 // 2
    assert weights == there - core


def test_only_latent_attention_computes_its_projections_again():
    def again(config):
        kernels = [k for p in chunk(config).backward for k in p.kernels]
        return {k.name for k in kernels if k.name.startswith(RECOMPUTED)}

    assert again(tiny()) == {"recompute projections", "recompute scores"}
    assert again(tiny_dense()) == {"recompute scores"}


def test_products_of_experts_run_in_fp8_and_core_router_and_head_do_not():
    precision = {k.name: k.precision for p in chunk(tiny()).forward for k in p.kernels}
    assert {n for n, p in precision.items() if p == "fp8"} == {
        "projections F",
        "dense F",
        "shared F",
        "experts F",
    }
    plain = chunk(replace(tiny(), fp8=None))
    assert {k.precision for p in plain.forward for k in p.kernels} == {"bf16"}


def after(pieces):
    return [(*piece.after,) for piece in pieces]


def test_transfers_of_a_dense_and_a_routed_layer_stand_where_they_belong():
    """Layer 0 of tiny is dense, layer 1 has experts."""
    made = chunk(tiny(), range(2), last=False)
    assert after(made.forward) == [(), (), ("dispatch",), ("combine",)]
    assert after(made.backward) == [("dispatch",), ("combine",), (), (), ()]
    assert made.backward[0].kernels == ()


def test_behind_a_head_the_first_dispatch_needs_no_piece_of_its_own():
    first, *_ = chunk(tiny(), range(3, 4)).backward
    assert first.after == ("dispatch",)
    assert first.kernels[-1].name == "head B"


def test_tensor_parallelism_gathers_before_attention_and_scatters_behind_it():
    made = chunk(tiny(), range(1, 3), last=False, tensor=2)
    layer = [("scatter", "dispatch"), ("combine", "gather")]
    assert after(made.forward) == [("gather",), *layer, layer[0], ("combine",)]
    back = [("combine", "gather"), ("scatter", "dispatch"), ("combine", "gather")]
    assert after(made.backward) == [("dispatch",), *back, ("scatter",)]
    assert flops(made.forward) == flops(chunk(tiny(), range(1, 3), last=False).forward)
