"""The recorder: kernels with names, collectives with bytes, waits where they belong."""

import sys

import pytest
import torch
from cloudpickle import register_pickle_by_value
from torch import nn
from torch.distributed.pipelining._backward import (
    stage_backward_input,
    stage_backward_weight,
)

from tiny_lm.attention import attend
from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import run_ranks
from tiny_lm.layers import RMSNorm
from tiny_lm.replay import recorder
from tiny_lm.replay.match import check
from tiny_lm.replay.recorder import recording
from tiny_lm.replay.tape import Collective, Kernel, Mark, Receive, Send, Wait

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest


def names(run, model=None):
    with recording(0, model) as rec:
        run()
    return [record.name for record in rec.tape().records]


def test_a_tape_lists_forward_and_backward_in_order():
    x, w = torch.ones(4, 3), torch.ones(3, 5, requires_grad=True)
    with recording(7) as rec:
        (x @ w).sum().backward()
    tape = rec.tape()
    assert tape.rank == 7
    assert tape.records == (
        Kernel("mm", 2 * 4 * 3 * 5, 48 + 60 + 80, "fp32"),
        Kernel("sum", 0, 80 + 4, "fp32"),
        Kernel("ones_like", 0, 8, "fp32"),
        Kernel("mm backward", 2 * 4 * 3 * 5, 48 + 4 + 60, "fp32"),
    )


def test_nothing_is_recorded_before_and_after():
    x = torch.ones(3)
    x + x
    with recording(0) as rec:
        x * x
        assert recorder.active() is rec
    x - x
    assert [record.name for record in rec.tape().records] == ["mul"]
    assert recorder.active() is None


def test_a_recording_that_fails_leaves_nothing_behind():
    model = nn.Linear(2, 2)
    with pytest.raises(KeyError), recording(0, model):
        raise KeyError
    assert recorder.active() is None
    assert not model._forward_hooks and not model._forward_pre_hooks
    assert names(lambda: torch.ones(2)) == ["ones"]


def test_only_one_recording_runs_at_a_time():
    with recording(0), pytest.raises(RuntimeError, match="a recording runs already"):
        with recording(0):
            pass


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 1, bias=False)

    def forward(self, x):
        return self.second(self.first(x).sin())


def test_kernels_are_named_after_the_module_that_asked_for_them():
    model = nn.Sequential(Twice())
    x = torch.ones(2, 3)
    assert names(lambda: model(x).sum().backward(), model) == [
        "0.first mm",
        "0 sin",
        "0.second mm",
        "sum",
        "ones_like",
        "0.second mm backward",
        "0.second mm backward",
        "0 cos backward",
        "0 mul backward",
        "0.first mm backward",
    ]
    assert names(lambda: model(x))[:2] == ["mm", "sin"]
    assert not model[0].first._forward_hooks


def test_a_module_that_fails_gives_its_name_back():
    model = Twice()

    def run():
        with pytest.raises(RuntimeError, match="shape"):
            model(torch.ones(2, 4))
        torch.ones(2)

    assert names(run, model)[-1] == "ones"


def test_attention_is_one_kernel_and_causal():
    B, H, T, S, qk, v = 2, 3, 4, 6, 5, 7
    q, k, values = (
        torch.ones(B, H, T, qk),
        torch.ones(B, H, S, qk),
        torch.ones(B, H, S, v),
    )
    q.requires_grad_()
    with recording(0) as rec:
        attend(q, k, values, 0.5).sum().backward()
    forward, *_, backward = rec.tape().records
    seen = T * (S - T / 2)  # pairs of a query and a key that it may see, about
    assert forward.flops == 2 * B * H * (qk + v) * seen
    assert backward.flops == 2 * forward.flops
    read, written = q.nbytes + k.nbytes + values.nbytes, B * H * T * v * 4
    assert (forward.name, forward.num_bytes) == ("attention", read + written)
    assert (backward.name, backward.num_bytes) == (
        "attention backward",
        2 * read + 2 * written,
    )


def test_a_norm_is_one_kernel():
    norm, x = RMSNorm(3, 1e-6), torch.ones(4, 3, requires_grad=True)
    with recording(0) as rec:
        norm(x).sum().backward()
    records = {record.name: record.num_bytes for record in rec.tape().records}
    assert records == {
        "norm": 2 * 48 + 12,
        "sum": 48 + 4,
        "ones_like": 8,
        "norm backward": 3 * 48 + 24,
    }


def uneven(rank):
    """Each collective forward and backward, with the meter beside the tape."""
    group = mesh.world()
    p = group.size
    sends = [(rank + to) % 3 for to in range(p)]
    receives = [(source + rank) % 3 for source in range(p)]
    with recording(rank) as rec, comm.metering() as meter:
        counts = torch.ones(p, 2, dtype=torch.int64)
        comm.all_to_all_counts(counts, group)
        comm.barrier(group)
        for run, rows in (
            (lambda x: comm.all_reduce(x, group), 5),
            (lambda x: comm.all_gather(x, group), 3),
            (lambda x: comm.reduce_scatter(x, group), 2 * p),
            (lambda x: comm.broadcast(x, 1, group), 3),
            (lambda x: comm.all_to_all(x, sends, receives, group), sum(sends)),
        ):
            x = torch.ones(rows, 6, requires_grad=True)
            run(x * 2).sum().backward()
    return rec.tape(), dict(meter.num_bytes), sends


@pytest.fixture(scope="module", params=[2, 4])
def tapes(request):
    return run_ranks(request.param, uneven)


def test_bytes_of_collectives_are_those_of_the_meter(tapes):
    for rank, (tape, metered, _) in enumerate(tapes):
        sent = dict.fromkeys(metered, 0)
        for record in tape.records:
            if isinstance(record, Collective):
                sent[record.name.removesuffix(" backward")] += record.sent_bytes(rank)
        assert sent == metered
        assert sum(metered.values()) > 0


def test_an_all_to_all_says_what_goes_to_each_rank(tapes):
    for tape, _, sends in tapes:
        calls = [r for r in tape.records if r[1] == "all_to_all"]
        counts, forward, backward = calls
        assert forward.num_bytes == tuple(24 * n for n in sends)
        assert counts.name == "counts" and set(counts.num_bytes) == {16}
        assert backward.name == "all_to_all backward"


def test_ranks_agree_on_every_call(tapes):
    check([tape for tape, *_ in tapes], mirror=False)
    everyone = tuple(range(len(tapes)))
    for tape, *_ in tapes:
        calls = [r for r in tape.records if isinstance(r, Collective)]
        assert [call.sequence for call in calls] == list(range(12))
        assert {call.group for call in calls} == {everyone}
        assert [c.root for c in calls if c.kind in ("broadcast", "reduce")] == [1, 1]


def test_streams_wait_for_each_other_around_a_call(tapes):
    for tape, *_ in tapes:
        for n, record in enumerate(tape.records):
            if isinstance(record, Collective):
                mark, wait, _, back, go_on = tape.records[n - 2 : n + 3]
                assert (mark, wait) == (Mark(mark.event), Wait(mark.event, "comm"))
                assert (back, go_on) == (Mark(back.event, "comm"), Wait(back.event))


def test_what_a_collective_does_inside_is_not_charged(tapes):
    for tape, *_ in tapes:
        names = {r.name.split()[0] for r in tape.records if isinstance(r, Kernel)}
        assert names == {"ones", "mul", "sum", "ones_like"}


def subgroups(rank):
    groups = mesh.Mesh({"dp": 2, "ep": 2})
    with recording(rank) as rec:
        for axis in ("ep", "dp", "ep"):
            comm.broadcast(torch.ones(2), 1, groups[axis])
    return [r for r in rec.tape().records if isinstance(r, Collective)]


def test_groups_are_global_ranks_and_count_their_own_calls():
    for rank, (one, other, again) in enumerate(run_ranks(4, subgroups)):
        node = rank // 2 * 2
        assert one.group == again.group == (node, node + 1)
        assert other.group == (rank % 2, rank % 2 + 2)
        assert (one.sequence, other.sequence, again.sequence) == (0, 0, 1)
        assert (one.root, other.root) == (node + 1, rank % 2 + 2)


def test_a_message_leaves_after_what_was_computed_and_holds_up_what_comes():
    x = torch.ones(3)
    with recording(0) as rec:
        x + x
        rec.send("states", 1, 12, 7)
        rec.receive("states", 1, 12, 9)
        x * x
    kinds = [type(record) for record in rec.tape().records]
    assert kinds == [Kernel, Mark, Wait, Send, Receive, Kernel]
    mark, wait, sent, received = rec.tape().records[1:5]
    assert (mark.stream, wait.stream) == ("compute", "comm")
    assert sent == Send("states", 1, 12, 7, "comm")
    assert received == Receive("states", 1, 12, 9, "compute")


def test_a_backward_in_two_halves_charges_a_fused_kernel_once_and_goes_on():
    """The second half runs the node at the kernel's end again, for its weight alone."""
    norm = RMSNorm(4, 1e-6)
    x = torch.ones(2, 4, requires_grad=True)
    with recording(0) as rec:
        y = norm(x)
        y = (y * 2.0).sum()
        _, owed = stage_backward_input([y], None, [x], norm.parameters())
        stage_backward_weight(norm.parameters(), owed)
        x.detach() - 1.0
    found = [record.name for record in rec.tape().records]
    assert sum("norm" in name for name in found) == 2  # forward and backward
    assert found[-1] == "sub"
    assert norm.weight.grad is not None
