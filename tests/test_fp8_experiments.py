"""FP8 beside FP32 and beside noise: what is compared, from where, and what is kept."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny_lm import data
from tiny_lm.course.experiments import __main__ as command
from tiny_lm.course.experiments import attentions, fp8_plan, gradients, plan, tensors
from tiny_lm.course.experiments.corpus import Sources
from tiny_lm.course.experiments.fp8_results import (
    branches,
    floor_of,
    gaps,
    noise_floor,
    result,
    smooth,
)
from tiny_lm.course.experiments.fp8_training import (
    Wired,
    add_noise,
    build,
    move_by_an_ulp,
    train_exact,
)
from tiny_lm.course.experiments.pool import Pool
from tiny_lm.course.experiments.records import FP8_NAMES, Store, Text
from tiny_lm.course.experiments.records import read as read_record
from tiny_lm.data import Corpus, Document
from tiny_lm.gpus import mesh
from tiny_lm.model import LanguageModel
from tiny_lm.moe import LocalDispatcher
from tiny_lm.parallel.wire import fp8_wire
from tiny_lm.quantize import Quantizer
from tiny_lm.step import build_optimizer, train_step

ARMS = fp8_plan.arms("tiny")
TOY = fp8_plan.TOY


def session(folder: Path, **changes) -> command.Session:
    texts = (f"def word_{n}():\n    return {n}  # word\n" * 9 for n in range(40))
    documents = (Document(f"{n}.py", text.encode()) for n, text in enumerate(texts))
    sources = Sources(Corpus("made up", tuple(documents)), {"made_up": "1"})
    parts = data.split(sources.corpus, min_bytes=65)
    store = Store(folder / "runs", Text.of(sources, *map(len, parts)), "fp32")
    pool = Pool(store, parts, "cpu", "a commit", progress=False, **changes)
    experiments = fp8_plan.experiments(short=True)
    of_tiny = {name: experiments[name] for name in ("fp8_pairs", "fp8_branches")}
    mla = attentions.Scale.toy()
    return command.Session(plan.SHORT, sources, pool, folder, of_tiny, mla)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Iterator[Path]:
    """Pairs and branches of `tiny`, at toy length and with two rungs."""
    folder = tmp_path_factory.mktemp("recorded")
    some = {name: fp8_plan.ladder()[name] for name in ("wire", "no masters")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fp8_plan, "ladder", lambda: some)
        few = {name: tensors.WAYS[name] for name in ("e5m2 tensor", "mxfp8")}
        patch.setattr(tensors, "WAYS", few)
        for module in (tensors, gradients):
            patch.setattr(module, "SEQUENCES", 2)
        patch.setattr(gradients, "BATCHES", 2)
        session(folder).record(FP8_NAMES)
        yield folder


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())


# --- the plan ---


def test_every_rung_changes_the_recipe_and_nothing_else():
    arms = fp8_plan.arms("tiny")
    published = arms[fp8_plan.FP8][0]
    twins = {fp8_plan.PLAIN, fp8_plan.NULL, *fp8_plan.NOISY}
    recipes = {label: arm.config.fp8 for label, arm in arms.items()}
    assert {label for label, recipe in recipes.items() if not recipe} == twins
    assert len(set(recipes.values())) == len(recipes) - len(twins) + 1
    for arm in arms.values():
        assert replace(arm.config, fp8=published.fp8) == published
    assert [label for label, arm in arms.items() if arm.moved] == [fp8_plan.NULL]
    noise = {label: arm.noise for label, arm in arms.items() if arm.noise}
    assert list(noise) == list(fp8_plan.NOISY) and len(set(noise.values())) == 2


def test_the_full_length_is_more_than_a_thousand_steps_of_two_models():
    widths = []
    for preset, scale in fp8_plan.FULL.items():
        assert scale.pair.steps >= 1000 and scale.validation_tokens >= 500_000
        assert scale.branch.lr == scale.pair.lr / 10
        config = fp8_plan.model(preset)
        widths.append((config.d_model, config.fp8.tile))
    assert widths == [(128, 32), (512, 128)]


def test_branches_start_from_the_first_fp32_run_of_the_pairs():
    pairs = fp8_plan.pairs("any", "tiny", TOY)
    start = pairs.runs[0]
    assert start.label == fp8_plan.PLAIN and start.keep_weights
    assert not any(run.keep_weights for run in pairs.runs[1:])
    assert {
        run.start for run in fp8_plan.branches("fp8_branches", "tiny", TOY).runs
    } == {start}


def test_branches_without_a_gpu_start_from_the_same_checkpoint():
    full = fp8_plan.experiments()
    starts = {full[name].runs[0].start for name in ("fp8_branches", "fp8_branches_cpu")}
    assert starts == {full["fp8_pairs"].runs[0]}
    assert full["fp8_branches_wide"].runs[0].start == full["fp8_pairs_wide"].runs[0]


def test_seeds_come_one_after_the_other_so_that_a_cut_leaves_whole_ones():
    runs = fp8_plan.branches("fp8_branches", "tiny", replace(TOY, branch_seeds=2)).runs
    seeds = [run.training.seed for run in runs]
    assert seeds == sorted(seeds) and len(runs) == 2 * len(fp8_plan.arms("tiny"))


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS.keys())
def test_every_arm_learns(arm):
    model = build(arm.config, 0, "cpu")
    optimizer = build_optimizer(model, TOY.pair)
    tokens = torch.arange(2 * 33).view(2, 33) % 256
    losses = [
        train_step(model, optimizer, tokens, mesh.solo(), 1.0)["loss"] for _ in range(2)
    ]
    assert losses[1] < losses[0] - 0.1


# --- a run ---


def test_the_null_twin_differs_in_the_last_place_alone():
    model, other = (LanguageModel(fp8_plan.model("tiny")) for _ in range(2))
    move_by_an_ulp(other)
    for one, moved in zip(model.parameters(), other.parameters(), strict=True):
        assert moved.gt(one).all()
        assert torch.equal(moved.nextafter(torch.tensor(-math.inf)), one)


def test_noise_is_so_large_a_share_of_each_gradient_and_new_in_each_step():
    def errors(draw, steps=2):
        model, exact = (LanguageModel(fp8_plan.model("tiny")) for _ in range(2))
        add_noise(model, plan.Noise(0.1, draw), seed=0)
        tokens, found = torch.arange(2 * 33).view(2, 33) % 256, []
        for _ in range(steps):
            for one in (model, exact):
                one.zero_grad()
                one.loss(tokens).total.backward()
            pairs = zip(model.parameters(), exact.parameters(), strict=True)
            found.append([(a.grad - b.grad, b.grad.norm()) for a, b in pairs])
        return found

    first, second = errors(0)
    for error, length in first:
        assert error.norm() == pytest.approx(0.1 * float(length), rel=1e-3)
    again, other = errors(0)[0], errors(1)[0]
    assert torch.equal(first[0][0], again[0][0])
    assert not torch.equal(first[0][0], other[0][0])
    assert not torch.equal(first[0][0], second[0][0])


def test_a_run_with_noise_is_another_run(tmp_path):
    runs = fp8_plan.branches("fp8_branches", "tiny", TOY).runs
    store = session(tmp_path).pool.store
    twins = [run for run in runs if run.label in (fp8_plan.PLAIN, *fp8_plan.NOISY)]
    assert len({store.path(run) for run in twins}) == 3


def test_one_rank_rounds_rows_as_the_wire_would():
    wired = Wired(LocalDispatcher(4, 32), fp8_wire(32))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 64, generator=generator).requires_grad_()
    experts = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]] * 2)
    rows, ends, way_back = wired.dispatch(x, experts)
    q = Quantizer(group=(1, 32))
    wanted, _, plain_way = LocalDispatcher(4, 32).dispatch(q(x.detach()), experts)
    assert torch.equal(rows, wanted) and ends.tolist() == [32, 64, 96, 128]
    weights = torch.full((8, 2), 0.5)
    y = wired.combine(rows, weights, way_back)
    halves = rows.detach().bfloat16().float()
    assert torch.equal(y, wired.local.combine(halves, weights, plain_way))
    (grad,) = torch.autograd.grad(y, x, torch.randn(8, 64, generator=generator))
    there = q(torch.randn(8, 64, generator=generator.manual_seed(0)))
    assert grad.shape == there.shape and grad.ne(0).any()
    assert torch.equal(build(fp8_plan.model("tiny"), 0, "cpu").head.weight, HEAD)


HEAD = LanguageModel(fp8_plan.model("tiny")).head.weight


def test_the_last_loss_is_measured_in_four_ways(recorded):
    runs = {run["label"]: run for run in read(recorded, "fp8_pairs")["runs"]}
    ways = {"own", "fp32", "averaged_own", "averaged_fp32"}
    for run in runs.values():
        assert run["final"].keys() == ways
    plain, fp8 = runs[fp8_plan.PLAIN]["final"], runs[fp8_plan.FP8]["final"]
    assert plain["own"] == plain["fp32"] and fp8["own"] != fp8["fp32"]
    assert plain["averaged_own"] != plain["own"]


def test_a_branch_starts_where_the_pair_ended(recorded):
    start = read(recorded, "fp8_pairs")["runs"][0]
    branch = read(recorded, "fp8_branches")["runs"][0]
    assert branch["label"] == start["label"] == fp8_plan.PLAIN
    assert branch["val_loss"][0] < start["val_loss"][0] - 0.01


def test_a_run_that_breaks_says_so_and_is_measured_before_it_broke(tmp_path):
    parts = session(tmp_path).pool.parts
    broken = replace(fp8_plan.pairs("any", "tiny", TOY).runs[0], label="broken")
    breaks = replace(broken.training, lr=1e30, final_lr=1e30, warmup_steps=0)
    ticks = []
    _, curves = train_exact(
        replace(broken, training=breaks), None, parts, "cpu", lambda: ticks.append(1)
    )
    assert "so training stopped" in curves["stopped"] and len(ticks) < TOY.pair.steps
    assert curves["final"]["own"] == pytest.approx(math.log(256), rel=0.05)


# --- what is kept ---


def test_every_arm_has_its_gap_and_noise_is_the_null_twin_s(recorded):
    for name in ("fp8_pairs", "fp8_branches"):
        record = read(recorded, name)
        labels = {run["label"] for run in record["runs"]} - {fp8_plan.PLAIN}
        assert record["gaps"].keys() == labels and record["missing"] == []
        null = record["gaps"][fp8_plan.NULL]["own"]
        assert record["noise_floor"]["own"] == pytest.approx(abs(null["mean"]))
    assert len(labels) == len(fp8_plan.arms("tiny")) - 1


def test_the_longer_ladder_is_read_where_there_is_one(tmp_path):
    with pytest.raises(ValueError, match="no record of fp8_branches"):
        branches(tmp_path)
    for name in ("fp8_branches_cpu", "fp8_branches"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name}))
        assert branches(tmp_path)["name"] == name


def test_noise_is_what_noisy_twins_do_and_null_twins_without_them():
    def gap(*each):
        return {"own": {"each": list(each)}}

    first, second = fp8_plan.NOISY
    found = {fp8_plan.NULL: gap(0.05, 0.05), "other": gap(9.0)}
    assert floor_of({"gaps": found}, "own") == pytest.approx(0.05)
    found |= {first: gap(0.01, -0.01), second: gap(0.07, 0.07)}
    assert floor_of({"gaps": found}, "own") == pytest.approx(0.05)
    found[second] = gap(-0.01, 0.01)
    assert floor_of({"gaps": found}, "own") == pytest.approx(0.01)


def test_a_gap_is_a_loss_over_that_of_the_same_seed():
    def run(label, seed, loss):
        final = {"own": loss}
        return {
            "label": label,
            "seed": seed,
            "final": final,
            "train_loss": [loss, loss, 2 * loss],
        }

    runs = [
        run(fp8_plan.PLAIN, 0, 2.0),
        run(fp8_plan.PLAIN, 1, 4.0),
        run(fp8_plan.NULL, 0, 2.02),
        run(fp8_plan.NULL, 1, 3.92),
        run("other", 1, 5.0),
        run("other", 2, 5.0),
        run("other", 0, 9.0) | {"stopped": "loss was nan"},
    ]
    found = gaps(runs)
    assert found[fp8_plan.NULL]["own"] == pytest.approx([0.01, -0.02])
    assert found["other"]["training"] == pytest.approx([0.25])
    floor = noise_floor(found)["own"]
    assert floor == pytest.approx(math.sqrt((1e-4 + 4e-4) / 2))


def test_losses_are_smoothed_with_a_memory_of_ten():
    assert smooth([1.0, 2.0, 2.0]) == pytest.approx([1.0, 1.1, 1.19])


def test_a_second_call_trains_nothing(recorded):
    before = {p: p.stat().st_mtime_ns for p in (recorded / "runs").iterdir()}
    session(recorded).record(["fp8_branches"])
    assert before == {p: p.stat().st_mtime_ns for p in (recorded / "runs").iterdir()}


def test_after_the_deadline_nothing_starts_and_the_record_says_what_is_missing(
    recorded, tmp_path
):
    late = session(tmp_path, deadline=time.monotonic() - 1)
    late.record(["fp8_branches"])
    assert list(tmp_path.iterdir()) == []
    store = session(recorded).pool.store
    more = fp8_plan.branches("fp8_branches", "tiny", replace(TOY, branch_seeds=2))
    record = result(more, store)
    assert [seed for _, seed in record["missing"]] == [1] * len(fp8_plan.arms("tiny"))
    with pytest.raises(ValueError, match="fp8_branches: no run is done"):
        result(more, late.pool.store)


def test_what_decides_an_exact_run_is_in_its_name(tmp_path):
    store = session(tmp_path).pool.store
    run = fp8_plan.branches("fp8_branches", "tiny", TOY).runs[0]
    others = [
        replace(run, moved=True),
        replace(run, start=None),
        replace(run, validation_tokens=1),
        replace(run, config=fp8_plan.model("tiny", scales="round_up")),
        replace(run, exact=False),
    ]
    paths = {store.path(each) for each in (run, *others)}
    assert len(paths) == len(others) + 1
    assert replace(store, precision="bf16 products").path(run) == store.path(run)


def test_what_the_hardware_did_is_a_record_too():
    record = read_record("hardware_bits")
    assert "H100" in record["device"] and record["torch"] and record["driver"]
    for case in record["accumulation"]:
        wanted = "no promotion" if case["case"].endswith("fast") else None
        wanted = wanted or "promotion every 128"
        assert case["models"][wanted]["equal"] == 1
    for case in record["scaled"]:
        assert case["models"]["fused"]["equal"] == 1
