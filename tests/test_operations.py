"""What operations cost: FLOPs of products, bytes of everything, nothing for views."""

import pytest
import torch
import torch.nn.functional as F

from tiny_lm.replay import operations
from tiny_lm.replay.recorder import recording

X, W = torch.ones(4, 3), torch.ones(5, 3)  # 48 and 60 bytes


def kernels_of(run):
    """Name, FLOPs, bytes of every kernel."""
    with recording(0) as recorder:
        run()
    return [tuple(record[:3]) for record in recorder.tape().records]


def test_a_product_costs_two_flops_a_pair():
    assert kernels_of(lambda: F.linear(X, W)) == [("mm", 2 * 4 * 3 * 5, 48 + 60 + 80)]
    batch = torch.ones(2, 4, 3)
    expected = [("bmm", 2 * 2 * 4 * 3 * 4, 96 + 96 + 128)]
    assert kernels_of(lambda: batch @ batch.transpose(1, 2)) == expected


def test_experts_rows_meet_one_weight_each():
    rows, weight = torch.ones(8, 16), torch.ones(2, 4, 16)
    ends = torch.tensor([3, 8], dtype=torch.int32)
    grouped = [("_grouped_mm", 2 * 8 * 16 * 4, 512 + 512 + 8 + 128)]
    forward = lambda: F.grouped_mm(rows, weight.transpose(1, 2), offs=ends)  # noqa: E731
    assert kernels_of(forward) == grouped
    grad = torch.ones(8, 4)
    update = [("_grouped_mm", 2 * 8 * 16 * 4, 128 + 512 + 8 + 512)]
    assert kernels_of(lambda: F.grouped_mm(grad.T, rows, offs=ends)) == update


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN"
)
def test_the_product_of_onednn_counts_as_any_other():
    product = torch.ops.mkldnn._linear_pointwise
    run = lambda: product(X, W, None, "none", [], "")  # noqa: E731
    assert kernels_of(run) == [("_linear_pointwise", 120, 48 + 60 + 80)]


def test_other_operations_move_bytes_and_no_more():
    assert kernels_of(lambda: X + X) == [("add", 0, 3 * 48)]
    assert kernels_of(lambda: X + 1) == [("add", 0, 2 * 48)]
    assert kernels_of(lambda: X.sum(0)) == [("sum", 0, 48 + 12)]
    assert kernels_of(lambda: torch.cat([X, W])) == [("cat", 0, 2 * (48 + 60))]


def test_what_replaces_its_input_is_read_and_written():
    x = torch.ones(4, 3)
    assert kernels_of(lambda: x.mul_(2)) == [("mul_", 0, 2 * 48)]
    assert kernels_of(lambda: torch.mul(X, X, out=x)) == [("mul", 0, 3 * 48)]
    several = [x, torch.ones(2)]
    foreach = [("_foreach_mul_", 0, 2 * (48 + 8))]
    assert kernels_of(lambda: torch._foreach_mul_(several, 2.0)) == foreach


def test_what_is_only_written_is_not_read():
    x = torch.ones(4, 3)
    assert kernels_of(lambda: x.zero_()) == [("zero_", 0, 48)]
    assert kernels_of(lambda: x.fill_(2.0)) == [("fill_", 0, 48)]
    assert kernels_of(lambda: x.copy_(X)) == [("copy_", 0, 2 * 48)]
    assert kernels_of(lambda: torch.zeros(3)) == [("zeros", 0, 12)]


def test_views_empty_tensors_and_looking_are_free():
    x = torch.ones(4, 3)
    views = lambda: x.view(3, 4).T[1:].unsqueeze(0).expand(5, -1, -1)  # noqa: E731
    assert kernels_of(views) == []
    assert kernels_of(lambda: x.new_empty(7)) == []
    assert kernels_of(lambda: x[0, 0].item()) == []
    assert kernels_of(lambda: x[:0] + 1) == []  # no numbers, no launch
    assert kernels_of(lambda: x.T.reshape(-1)) == [("clone", 0, 2 * 48)]


def test_a_repeated_value_is_read_once():
    assert kernels_of(lambda: X[:1].expand(4, 3) + X) == [("add", 0, 12 + 48 + 48)]


def test_the_optimizer_reads_gradients_and_writes_weights_and_moments():
    weight = torch.ones(4, 3, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], fused=True)
    for _ in range(2):
        weight.grad = torch.ones(4, 3)
        found = kernels_of(optimizer.step)
    name, flops, num_bytes = found[-1]
    step = 4  # a number of FP32 that counts the steps
    assert (name, flops) == ("_fused_adamw_", 0)
    # Weight, gradient and two moments are read; torch says that it may write them all.
    assert num_bytes == 8 * 48 + step


def test_precision_is_that_of_the_first_numbers_that_are_not_whole():
    def precision(run):
        with recording(0) as recorder:
            run()
        return recorder.tape().records[0].precision

    index, half, double = torch.tensor([1, 0]), X.bfloat16(), X.double()
    assert precision(lambda: F.embedding(index, half)) == "bf16"
    assert precision(lambda: double @ double.T) == "fp64"
    assert precision(lambda: X @ X.T) == "fp32"
    assert precision(lambda: index + index) == "fp32"


def test_torchs_own_collectives_and_profilers_are_no_kernels():
    assert operations.counter(torch.ops.c10d.allreduce_.default) is None
    assert operations.counter(torch.ops.aten.view.default) is None
    assert operations.counter(torch.ops.aten.add.Tensor) is not None
