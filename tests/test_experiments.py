"""Recorded experiments: what is compared, what is kept, what is not done twice."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny_lm import costs, data
from tiny_lm.course.experiments import __main__ as command
from tiny_lm.course.experiments import attentions, fp8_plan, plan, read
from tiny_lm.course.experiments.corpus import Sources
from tiny_lm.course.experiments.plan import SHORT, Run
from tiny_lm.course.experiments.pool import Pool
from tiny_lm.course.experiments.records import (
    MOE_NAMES,
    Store,
    Text,
    assemble,
    trained,
    write_json,
)
from tiny_lm.course.experiments.training import train_run
from tiny_lm.data import Corpus, Document
from tiny_lm.model import LanguageModel

RATES = {"moe": 3e-3, "dense": 6e-3}
# Shorter still, to train what is compared: 40 and 60 % of it differ.
_BRIEF = {"steps": 4, "batch_size": 2, "seq_len": 32}
TOY = replace(
    SHORT,
    training=replace(SHORT.training, warmup_steps=1, eval_batches=1, **_BRIEF),
    sweep_steps=2,
    reader_bytes=2_000,
)
PROMISED = """
name question created commit versions device seconds corpus training validation_tokens
runs
""".split()
PROMISED_OF_A_RUN = """
label seed config params_total params_active flops_per_token steps tokens val_loss
train_loss final_val_loss load max_violation seconds
""".split()


def _sources(word: str = "word") -> Sources:
    """Forty made-up Python files; some fall to validation."""
    texts = (f"def {word}_{n}():\n    return {n}  # {word}\n" * 9 for n in range(40))
    documents = (Document(f"{n}.py", text.encode()) for n, text in enumerate(texts))
    return Sources(Corpus("made up", tuple(documents)), {"made_up": "1"})


def _session(folder: Path, jobs: int = 1, word: str = "word") -> command.Session:
    sources = _sources(word)
    parts = data.split(sources.corpus, min_bytes=65)
    text = Text.of(sources, len(parts[0]), len(parts[1]))
    store = Store(folder / "runs", text, "fp32")
    pool = Pool(store, parts, "cpu", "a commit", jobs, progress=False)
    return command.Session(
        TOY,
        sources,
        pool,
        folder,
        fp8_plan.experiments(short=True),
        attentions.Scale.toy(),
    )


def _run(**changes: object) -> Run:
    changes = {"steps": 2, "eval_every": 1} | changes
    training = replace(TOY.training, **changes)
    return Run(label="any", config=plan.moe(), training=training)


def _record(session: command.Session, names: tuple[str, ...] = MOE_NAMES) -> None:
    """Record comparisons, the first of them of two seeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "MANY_SEEDS", (0, 1))
        patch.setattr(plan, "SEEDS", (0,))
        session.record(names)


def _written(folder: Path) -> dict[str, int]:
    """When each run's record was written; a run that is done again has a new time."""
    return {p.name: p.stat().st_mtime_ns for p in (folder / "runs").iterdir()}


def test_both_models_cost_a_token_the_same_and_differ_in_the_feed_forward_alone():
    moe, dense = plan.moe(), plan.dense()
    flops = [costs.flops_per_token(c, 256) for c in (moe, dense)]
    assert flops[1] == pytest.approx(flops[0], rel=0.005)
    back = {"name": "moe", "moe": moe.moe, "d_ffn": moe.d_ffn, "num_dense_layers": 1}
    assert replace(dense, **back) == moe
    assert dense.num_dense_layers == 4 and moe.fp8 is None


def test_variants_of_one_seed_start_from_the_same_weights():
    variants = {run.label: run for run in plan.balance(SHORT, 3e-3).runs}
    assert [*variants] == ["none", "auxiliary loss", "bias"]
    models = [LanguageModel(run.config).state_dict() for run in variants.values()]
    dense = LanguageModel(plan.dense()).state_dict()
    for name, weight in models[0].items():
        assert all(torch.equal(weight, other[name]) for other in models)
        if "attention" in name or "embedding" in name:
            assert torch.equal(weight, dense[name])


def test_variants_of_the_balance_differ_in_the_balance_alone():
    for run in plan.balance(SHORT, 3e-3).runs:
        settings = run.config.moe
        biased, balanced = settings.bias_rate > 0, settings.balance_loss > 1e-3
        assert (biased, balanced) == {
            "none": (False, False),
            "auxiliary loss": (False, True),
            "bias": (True, False),
        }[run.label]
        given = {"bias_rate": 0.01, "balance_loss": 0.0001}
        assert replace(settings, **given) == plan.moe().moe


def test_a_token_reads_four_of_any_number_of_experts():
    runs = plan.num_experts(SHORT, 3e-3).runs
    assert [run.config.moe.num_experts for run in runs] == [4, 8, 16, 32, 64]
    for run in runs:
        assert run.label == str(run.config.moe.num_experts)
        assert (run.config.moe.top_k, run.config.moe.d_expert) == (4, 64)


def test_every_comparison_has_its_seeds_and_its_model_s_learning_rate():
    equal, other, fewer, balance, experts = plan.comparisons(SHORT, RATES)
    for experiment, number in ((equal, 10), (other, 10), (fewer, 10), (balance, 3)):
        for label in {run.label for run in experiment.runs}:
            seeds = [r.training.seed for r in experiment.runs if r.label == label]
            assert seeds == list(range(number))
    for run in (*equal.runs, *fewer.runs, *balance.runs, *experts.runs):
        lr = RATES["dense" if run.config.moe is None else "moe"]
        assert (run.training.lr, run.training.final_lr) == (lr, lr / 10)
    for run in other.runs:
        assert run.training.lr == RATES["moe" if run.config.moe is None else "dense"]


def test_the_shorter_runs_have_a_schedule_of_their_own():
    steps = {r.label: r.training.steps for r in plan.fewer_flops(plan.FULL, 3e-3).runs}
    assert steps == {"40 %": 1200, "60 %": 1800}


def test_the_full_length_is_tens_of_millions_of_tokens_and_a_million_validate():
    t = plan.FULL.training
    assert 3e7 < t.steps * t.batch_size * t.seq_len < 1e8
    assert t.eval_batches * t.batch_size * t.seq_len >= 1e6
    assert t.steps // t.eval_every == 20


def test_a_run_is_a_run_of_the_course_s_own_loop(tmp_path):
    pool = _session(tmp_path).pool
    run, ticks = _run(), []
    model = LanguageModel(run.config, seed=0)
    curves = train_run(run, model, pool.parts, lambda: ticks.append(1))
    assert len(ticks) == 2 and curves["steps"] == [1, 2]
    assert curves["tokens"] == [2 * 32, 2 * 2 * 32]
    assert [sum(layer) for layer in curves["load"]] == [2 * 32 * 4] * 3
    busiest = max(curves["load"][0]) / (2 * 32 * 4 / 16) - 1
    assert curves["max_violation"][-1][0] == pytest.approx(busiest, abs=1e-3)
    assert curves["final_val_loss"] == curves["val_loss"][-1] < curves["val_loss"][0]


def test_the_same_seed_gives_the_same_curves_and_another_seed_others(tmp_path):
    pool = _session(tmp_path).pool
    one, same, other = (_run(seed=seed) for seed in (0, 0, 1))
    results = [
        train_run(
            r, LanguageModel(r.config, seed=r.training.seed), pool.parts, lambda: None
        )
        for r in (one, same, other)
    ]
    assert results[0] == results[1] != results[2]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A folder with everything recorded, at toy length and for two seeds."""
    folder = tmp_path_factory.mktemp("recorded")
    _record(_session(folder))
    return folder


@pytest.mark.parametrize("name", MOE_NAMES)
def test_a_result_has_every_promised_key(recorded, name):
    result = read(name, recorded)
    assert [key for key in PROMISED if key not in result] == []
    assert result["name"] == name and result["commit"] == "a commit"
    assert set(result["versions"]) == {"python", "torch", "tiny_lm"}
    sizes = ("bytes", "train_bytes", "validation_bytes")
    whole, train, validation = (result["corpus"][size] for size in sizes)
    assert train + validation == whole - 1  # the line feed between them
    for run in result["runs"]:
        assert [key for key in PROMISED_OF_A_RUN if key not in run] == []
        assert len(run["steps"]) == len(run["val_loss"]) == len(run["tokens"])


def test_the_readers_are_counted_by_layer_expert_and_class(recorded):
    result = read("moe_readers", recorded)
    counts = torch.tensor(result["counts"])
    assert counts.shape == (3, 16, len(result["classes"]))
    assert counts.sum((1, 2)).tolist() == [4 * result["bytes_read"]] * 3
    assert sum(result["corpus_shares"]) == pytest.approx(1)
    for layer, shares in zip(counts, result["shares"], strict=True):
        for expert, share in zip(layer, shares, strict=True):
            assert sum(share) == pytest.approx(float(expert.sum() > 0))


def test_a_second_call_trains_nothing_and_writes_the_same(recorded):
    times, first = _written(recorded), read("moe_equal_flops", recorded)
    (recorded / "moe_equal_flops.json").unlink()
    _record(_session(recorded), ("moe_equal_flops",))
    assert _written(recorded) == times
    assert read("moe_equal_flops", recorded) == first


def test_unchanged_runs_of_a_recorded_result_are_taken_over(recorded, tmp_path):
    equal, *_ = plan.comparisons(TOY, RATES)
    sweep = plan.learning_rates(TOY)
    result = read("moe_learning_rate", recorded)
    store = _session(tmp_path).pool.store
    store.take_over([*equal.runs, *sweep.runs], result)
    assert trained(equal, store).runs == () and trained(sweep, store) == sweep
    assert assemble(sweep, store) == result
    for change in ({"precision": "bf16"}, {"corpus": {"sha256": "another"}}):
        store = _session(tmp_path / str(change)).pool.store
        store.take_over(sweep.runs, result | change)
        assert trained(sweep, store).runs == ()


def test_what_ran_out_of_time_is_written_with_the_runs_that_are_done(
    recorded, tmp_path
):
    rates = _session(recorded).best_rates(plan.learning_rates(TOY))
    before = tmp_path / "before"
    sweep = "moe_learning_rate"
    write_json(before / f"{sweep}.json", read(sweep, recorded))
    session = replace(_session(tmp_path), recorded=before)
    late = replace(session, pool=replace(session.pool, deadline=0.0))
    late.record(["moe_other_rate"])  # the sweep is there, and nothing was started
    assert list(tmp_path.glob("*.json")) == [tmp_path / "moe_learning_rate.json"]
    first = plan.other_rate(TOY, rates).runs[0]
    session.pool.train([first])
    late.record(["moe_other_rate"])
    (run,) = read("moe_other_rate", tmp_path)["runs"]
    assert (run["label"], run["seed"]) == ("moe", 0)
    assert run["training"]["lr"] == rates["dense"]


def test_a_changed_text_is_trained_on_anew(recorded):
    runs = list(plan.learning_rates(TOY).runs)
    assert _session(recorded).pool.unfinished(runs) == []
    assert len(_session(recorded, word="else").pool.unfinished(runs)) == len(runs)


def test_the_learning_rate_is_that_of_the_best_short_run(recorded):
    runs = read("moe_learning_rate", recorded)["runs"]
    assert len(runs) == 2 * len(plan.LEARNING_RATES)
    chosen = _session(recorded).best_rates(plan.learning_rates(TOY))
    for label, lr in chosen.items():
        of_model = [run for run in runs if run["label"] == label]
        best = min(of_model, key=lambda run: run["final_val_loss"])
        assert lr == best["training"]["lr"]
    used = {r["label"]: r["training"]["lr"] for r in _runs(recorded)}
    assert used == chosen


def _runs(folder: Path) -> list[dict]:
    return read("moe_equal_flops", folder)["runs"]


def test_what_two_experiments_share_is_trained_once_and_keeps_its_weights(tmp_path):
    equal, _, _, balance, _ = plan.comparisons(TOY, RATES)
    todo = _session(tmp_path).pool.unfinished([*balance.runs, *equal.runs])
    assert len(todo) == 20 + 9 - 3
    kept = [run for run in todo if run.keep_weights]
    assert [(run.config.name, run.training.seed) for run in kept] == [("moe", 0)]


def test_no_gpu_is_one_clear_error(tmp_path):
    pool = replace(_session(tmp_path).pool, device="cuda")
    pool.train([])  # nothing to train asks for nothing
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch sees no GPU here"):
            pool.train([_run()])


def test_a_run_whose_weights_are_missing_is_not_done(tmp_path):
    pool = _session(tmp_path).pool
    run = replace(_run(), keep_weights=True)
    pool.train([run])
    assert pool.store.is_done(run)
    pool.store.weights_path(run).unlink()
    assert not pool.store.is_done(run)
    assert pool.store.is_done(replace(run, keep_weights=False))


def test_a_change_of_anything_that_decides_a_run_makes_it_another(tmp_path):
    store, run = _session(tmp_path).pool.store, _run()
    paths = {
        store.path(run),
        store.path(_run(seed=1)),
        store.path(_run(lr=1e-3)),
        store.path(replace(run, config=plan.balanced_by("moe", 0.0, 0.0))),
        _session(tmp_path, word="else").pool.store.path(run),
        replace(store, precision="bf16 products").path(run),
    }
    assert len(paths) == 6
    assert store.path(replace(run, label="another")) == store.path(run)


def test_runs_at_once_give_what_runs_one_by_one_give_and_a_failed_one_is_named(
    tmp_path,
):
    good = [_run(seed=seed) for seed in (0, 1)]
    bad = replace(good[0], config=replace(plan.moe(), name="bad", max_len=8))
    results = []
    for jobs in (1, 2):
        pool = _session(tmp_path / str(jobs), jobs).pool
        with pytest.raises(RuntimeError, match="1 runs failed: bad-0-.* max_len=8"):
            pool.train([bad, *good])
        assert pool.unfinished([bad, *good]) == [bad]
        results.append([pool.store.load(run)["val_loss"] for run in good])
    for one, other in zip(*results, strict=True):
        assert one == pytest.approx(other, rel=1e-4)  # threads add in another order


def test_a_result_holds_the_settings_that_all_its_runs_share(tmp_path):
    pool = _session(tmp_path).pool
    runs = tuple(_run(seed=seed) for seed in (0, 1))
    pool.train(list(runs))
    alone = plan.Experiment(name="any", question="Why?", runs=runs)
    settings = assemble(alone, pool.store)["training"]
    assert "seed" not in settings and settings["steps"] == 2


def test_an_unknown_or_unrecorded_experiment_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown experiment 'moe'; there are: moe_"):
        read("moe")
    with pytest.raises(ValueError, match="moe_balance: run `make experiments`"):
        read("moe_balance", tmp_path)


def test_the_command_writes_a_short_run_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "ROOT", tmp_path)
    out = tmp_path / "out"
    options = ["--short", "--device", "cpu", "--commit", "abc", "--out", str(out)]
    command.main([*options, "--only", "moe_learning_rate"])
    result = json.loads((out / "moe_learning_rate.json").read_text())
    assert result["commit"] == "abc" and result["corpus"]["versions"].keys() == {
        "docutils"
    }
    assert [path.name for path in out.iterdir()] == ["moe_learning_rate.json"]


def test_the_command_refuses_less_than_one_job():
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        command.main(["--jobs", "0"])


def test_a_result_names_every_commit_that_its_runs_were_made_with(tmp_path):
    session = _session(tmp_path)
    runs = (_run(seed=0), _run(seed=1))
    for run, commit in zip(runs, ("first", "second"), strict=True):
        replace(session.pool, commit=commit).train([run])
    several = plan.Experiment(name="any", question="?", runs=runs)
    assert assemble(several, session.pool.store)["commit"] == "first, second"
