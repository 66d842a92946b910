"""Tapes of a step: FLOPs, bubbles, one tape for many GPUs, and what options change."""

from collections import Counter
from dataclasses import replace

import pytest
from test_plan import SMALL
from toy_machine import TOY

from tiny_lm.config import MHAConfig, deepseek_v3, tiny, tiny_dense
from tiny_lm.costs import step_flops
from tiny_lm.parallel.plan import Layout, Plan
from tiny_lm.parallel.schedules import OF_WHOLE_STAGES
from tiny_lm.parallel.step_tape import write
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Collective, Kernel, Mark, Send, Wait

SHORT = Layout(batch_size=128 * 32)  # V3's, with as few micro-batches as can be


def tapes(config, layout, **options):
    return write(Plan(config=config, layout=layout), **options)


def records(made, *kinds):
    return [r for tape in made for r in tape.records if isinstance(r, kinds)]


@pytest.mark.parametrize("schedule", OF_WHOLE_STAGES)
@pytest.mark.parametrize("num_mtp", [0, 1])
def test_flops_of_all_gpus_are_those_of_the_step(schedule, num_mtp):
    config = replace(deepseek_v3(), num_mtp=num_mtp)
    made = tapes(config, replace(SHORT, schedule=schedule))
    kernels = records(made, Kernel)
    flops = 128 * sum(k.flops for k in kernels if "recompute" not in k.name)
    assert flops == pytest.approx(step_flops(config, 128 * 32, 4096), rel=1e-3)
    again = sum(k.flops for k in kernels if "recompute" in k.name) * 128 / flops
    assert 0.02 < again < 0.1


@pytest.mark.parametrize("schedule", OF_WHOLE_STAGES)
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("tensor", [1, 2])
def test_one_tape_a_stage_tells_what_the_tapes_of_all_gpus_tell(
    schedule, overlap, tensor
):
    layout = replace(SMALL, schedule=schedule, overlap=overlap, tensor_parallel=tensor)
    few, all_ = tapes(tiny(), layout), tapes(tiny(), layout, every_rank=True)
    assert (len(few), len(all_)) == (2, layout.num_gpus)
    short, long = replay(few, TOY, mirror=True), replay(all_, TOY)
    assert short.step_ps == long.step_ps
    assert short.of(8) == long.of(8)


def even_stages(schedule, num_stages=8):
    """Equal stages whose forward, input's and weights' gradient take equally long."""
    config = replace(
        tiny_dense(),
        d_model=256,
        num_layers=num_stages,
        num_dense_layers=num_stages,
        attention=MHAConfig(num_heads=1, num_kv_heads=1, d_head=2),
    )
    layout = Layout(
        num_stages=num_stages,
        num_expert_ranks=1,
        num_expert_copies=1,
        gpus_per_node=1,
        batch_size=20,
        seq_len=16,
        schedule=schedule,
    )
    plan = Plan(config=config, layout=layout)
    vars(plan)["chunks"] = [plan.chunks[1]] * num_stages
    return plan


FREE = replace(
    TOY,
    memory_bytes_per_s=1e30,
    network_bytes_per_s=1e30,
    launch_s=0.0,
    network_alpha_s=0.0,
    gpus_per_node=1,
)


@pytest.mark.parametrize(
    ("schedule", "units"), [("1f1b", 7 * 3), ("zb1p", 7 * 1), ("dualpipe", 3 * 2)]
)
def test_bubbles_equal_their_closed_forms_where_stages_are_equal(schedule, units):
    """With F = 1, B = 2, of which W = 1: 7 (F + B), 7 (F + B - 2W) and 3 (3 - 1)."""
    plan = even_stages(schedule)
    unit = sum(k.flops for piece in plan.chunks[0].forward for k in piece.kernels)
    timeline = replay(write(plan), FREE)
    for row in timeline.summary():
        idle = timeline.step_ps - row.compute_ps
        assert idle / unit == pytest.approx(units, rel=0.01)


def test_without_overlap_the_same_work_stands_on_one_stream():
    beside, alone = (
        tapes(tiny(), replace(SMALL, schedule="dualpipe", overlap=o))
        for o in (True, False)
    )
    same = Counter(r._replace(stream="") for r in records(beside, Kernel, Send))
    assert same == Counter(r._replace(stream="") for r in records(alone, Kernel, Send))

    def calls(made):
        return Counter((c.name, c.num_bytes) for c in records(made, Collective))

    assert calls(beside) == calls(alone)
    assert {c.stream for c in records(beside, Collective)} == {"comm", "compute"}
    assert {c.stream for c in records(alone, Collective)} == {"compute"}


def changed(config, other):
    """Names of what differs between two models' tapes on V3's layout."""
    pairs = zip(
        records(tapes(config, SHORT), object),
        records(tapes(other, SHORT), object),
        strict=True,
    )
    return {one.name.split(": ")[1] for one, two in pairs if one != two}


def test_the_wire_format_changes_the_bytes_of_dispatch_and_nothing_else():
    v3 = deepseek_v3()
    assert changed(v3, replace(v3, fp8=replace(v3.fp8, wire=False))) == {"dispatch"}


def test_the_node_limit_changes_the_bytes_of_both_ways_and_nothing_else():
    v3 = deepseek_v3()
    free = replace(v3, moe=replace(v3.moe, top_groups=8))
    assert changed(v3, free) == {"dispatch", "combine"}


def test_tensor_parallelism_adds_transfers_and_no_work():
    plain, split = (
        tapes(deepseek_v3(), SHORT),
        tapes(deepseek_v3(), replace(SHORT, tensor_parallel=8)),
    )
    assert records(plain, Kernel, Send) == records(split, Kernel, Send)
    calls = [
        {c.name.split(": ")[1]: c for c in records(made, Collective)}
        for made in (plain, split)
    ]
    assert calls[1].keys() - calls[0].keys() == {"gather", "scatter"}
    assert calls[1]["gather"].num_bytes == (4096 * 7168 * 2,)
    assert calls[1]["scatter"].num_bytes == (8 * 4096 * 7168 * 2,)
    assert len(calls[1]["gather"].group) == 8


def test_equal_plans_make_equal_tapes():
    layout = replace(SMALL, schedule="dualpipe")
    assert tapes(tiny(), layout) == tapes(tiny(), layout)
    assert [t.rank for t in tapes(tiny(), layout)] == [0, 8]


def test_messages_between_stages_are_hidden_states_in_bf16():
    made = tapes(tiny(), replace(SMALL, sequences_per_micro=2))
    assert {s.num_bytes for s in records(made, Send)} == {2 * 128 * 128 * 2}
    assert {(t.rank, s.peer) for t in made for s in records([t], Send)} == {
        (0, 8),
        (8, 0),
    }


def test_the_optimizer_shares_gradients_out_and_gives_weights_back():
    """By hand: 8 GPUs a stage in 4 nodes of 2; experts have 2 copies, 4 ranks apart."""
    plan = Plan(config=tiny(), layout=SMALL)
    tape = write(plan)[0]
    tail = [r for r in tape.records if getattr(r, "name", "").startswith("optimizer")]
    shared, own = plan.chunks[0].shared_parameters, plan.chunks[0].expert_parameters
    assert [
        (r.kind, r.num_bytes, r.group) for r in tail if isinstance(r, Collective)
    ] == [
        ("reduce_scatter", (4 * shared,), (0, 1)),
        ("reduce_scatter", (2 * shared,), (0, 2, 4, 6)),
        ("reduce_scatter", (4 * own,), (0, 4)),
        ("all_gather", (own,), (0, 4)),
        ("all_gather", (2 * shared // 8,), (0, 2, 4, 6)),
        ("all_gather", (shared,), (0, 1)),
    ]
    (update,) = [r for r in tail if isinstance(r, Kernel)]
    assert update.num_bytes == 22 * (shared // 8 + own // 2)


def test_each_action_ends_with_its_transfers():
    """So parts of the step do not run into each other: the first stage has no head."""
    made = tapes(tiny(), SMALL)[0].records
    marks = {r.event for r in made if isinstance(r, Mark) and r.stream == "comm"}
    waits = {r.event for r in made if isinstance(r, Wait) and r.stream == "compute"}
    assert marks and marks == waits


@pytest.mark.parametrize("schedule", OF_WHOLE_STAGES)
def test_a_routed_layer_makes_two_transfers_each_way_for_a_micro_batch(schedule):
    made = tapes(deepseek_v3(), replace(SHORT, schedule=schedule))
    calls = Counter(c.name.split(": ")[1] for c in records(made, Collective))
    assert calls["dispatch"] == calls["combine"] == 2 * 58 * SHORT.num_micro


def test_in_a_pair_each_chain_computes_while_the_other_one_sends():
    """A layer's four pieces and four transfers, from the start of a pair."""
    named = [r for r in tapes(deepseek_v3(), SHORT)[8].records if hasattr(r, "name")]
    start = next(i for i, r in enumerate(named) if r.name.startswith("1F1B: "))
    order = [r.name.removeprefix("1F1B: ") for r in named[start:]]
    kept = "dispatch combine core experts projections".split()
    short = [n for n in order if n.split()[0] in kept and "traffic" not in n]
    assert short[:14] == [
        "dispatch",  # of the backward, before anything computes
        *("projections F", "core F", "dispatch"),
        *("experts B", "combine", "experts W"),
        *("experts F", "combine"),
        *("core B", "projections B", "dispatch", "projections W"),
        "projections F",
    ]
