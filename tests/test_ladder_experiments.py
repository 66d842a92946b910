"""The cost ladder's runs: what is compared, what a line says, what an answer covers."""

import json
import math
from dataclasses import replace
from itertools import product

import pytest

from tiny_lm import costs, ladder
from tiny_lm.config import tiny_dense
from tiny_lm.course.experiments import ladder_plan, ladder_results, read
from tiny_lm.course.experiments.ladder_plan import Scale
from tiny_lm.course.experiments.ladder_results import Assumptions, Estimate, Findings
from tiny_lm.course.experiments.records import LADDER_NAMES
from tiny_lm.parallel import v3_ladder, v3_step

SCALE, TOY = Scale(), Scale.toy()
RATES = dict.fromkeys(ladder_plan.plain_arms(), 2e-3)


# --- the plan ---


def test_the_baselines_are_as_large_as_what_is_read_and_as_what_is_stored():
    arms = ladder_plan.plain_arms()
    count = {name: costs.count_parameters(config) for name, config in arms.items()}
    assert count["dense"].total == pytest.approx(count["moe"].active, rel=0.01)
    assert count["dense_large"].total == pytest.approx(count["moe"].total, rel=0.005)
    large = arms["dense_large"]
    same = {"name": "dense", "d_ffn": tiny_dense().d_ffn}
    assert replace(large, **same) == arms["dense"]


def test_every_model_tries_the_same_rates_with_the_same_seeds_over_whole_schedules():
    runs = ladder_plan.rates(SCALE).runs
    tried = {}
    for run in runs:
        t = run.training
        tried.setdefault(run.label, []).append((t.lr, t.seed))
        assert t.steps == SCALE.training.steps and t.final_lr == t.lr / 10
        assert t.eval_every == t.steps and t.warmup == t.steps // 10
    wanted = sorted(product(SCALE.rates, SCALE.rate_seeds))
    assert {label: sorted(some) for label, some in tried.items()} == dict.fromkeys(
        ladder_plan.plain_arms(), wanted
    )


def test_the_rate_with_the_lowest_mean_is_chosen():
    def run(label, lr, loss):
        return {"label": label, "training": {"lr": lr}, "val_loss": [9.0, loss]}

    records = [run("a", 1, 1.0), run("a", 1, 1.4), run("a", 2, 1.1), run("a", 2, 1.2)]
    records += [run("b", 1, 1.0), run("b", 2, 1.1)]
    assert ladder_plan.best_rates(records) == {"a": 2, "b": 1}


def test_a_cut_leaves_whole_seeds_and_fp8_takes_its_twin_s_rate():
    rates = RATES | {"moe": 7e-3}
    lengths, fp8 = ladder_plan.experiments(SCALE, rates)
    for experiment in (lengths, fp8):
        seeds = [run.training.seed for run in experiment.runs]
        assert seeds == sorted(seeds)
    of_moe = {r.training.lr for r in fp8.runs if r.label == "moe_fp8"}
    assert of_moe == {7e-3} and all(run.exact for run in fp8.runs)
    steps = {run.training.steps for run in lengths.runs}
    assert steps == set(SCALE.lengths) and SCALE.training.steps in steps
    kept = [run for run in (*lengths.runs, *fp8.runs) if run.keep_weights]
    assert {run.label for run in kept} == {"moe", "moe_mla"} and len(kept) == 2
    assert ladder_plan.twin_of("fp8") == "dense"
    assert ladder_plan.twin_of("moe_mla_fp8") == "moe_mla"


# --- what the findings say, on made-up curves ---


def record(of: dict[str, dict[int, list[float]]]) -> dict:
    runs = [
        {"label": label, "seed": seed, "training": {"steps": n}, "val_loss": [9, loss]}
        for label, lines in of.items()
        for n, losses in lines.items()
        for seed, loss in enumerate(losses)
    ]
    return {"runs": runs, "created": "2026-01-01", "device": "none"}


def curve(factor: float, offsets=(0.0, 0.01, -0.01)) -> dict[int, list[float]]:
    """A power law that is at 1 after `1000 factor` steps; seeds differ by offsets."""
    return {
        n: [(n / (1000 * factor)) ** -0.2 * (1 + off) for off in offsets]
        for n in SCALE.lengths
    }


PLAIN = {
    "dense": curve(1.0),
    "dense_large": curve(0.75),
    "moe": curve(0.8),
    "mla": curve(1.1),
    "moe_mla": curve(0.9),
}
FP8 = {name: {1000: [1.0, 1.0, 1.0]} for name in ladder_plan.fp8_arms()}
FP8["fp8"] = {1000: [1.02 * loss for loss in PLAIN["dense"][1000]]}


def prices(**us: float) -> dict:
    """Every step costs 1 microsecond a token, but for those that are given."""
    names = [*ladder_plan.plain_arms(), *ladder_plan.fp8_arms()]
    names += [name + way for name in names for way in (" overlap", " overlap, halved")]
    one = {name: us.get(name.replace(" ", "__"), 1.0) for name in names}
    return {
        "created": "2026-01-02",
        "prices": {
            name: {
                "trained": {
                    links: {"pipelined": [value, 0.0], "series": [value, 2048e3]}
                    for links in ("1", "4")
                }
            }
            for name, value in one.items()
        },
    }


def findings(**us: float) -> Findings:
    return Findings.of(record(PLAIN), record(FP8), prices(**us))


def test_cost_is_steps_times_price():
    found = findings(moe=3.0, moe__overlap=1.5)
    assert found.cost(()).value == 1.0
    assert found.cost(("moe",)).value == pytest.approx(0.8 * 3)
    assert found.cost(("moe", "overlap")).value == pytest.approx(0.8 * 1.5)
    assert found.cost(("mla", "overlap")).value == pytest.approx(1.1)
    large = Assumptions(baseline="dense_large")
    assert found.cost((), large).value == pytest.approx(1 / 0.75)
    dear = findings(dense_large=2.0)
    assert dear.cost((), large).value == pytest.approx(1 / 0.75 / 2)


def test_an_error_is_paired_and_covers_the_baseline_s_seeds_too():
    """Where all models have good and bad seeds alike, the ratio has no error."""
    found = findings()
    assert found.cost(("moe",)).error < 1e-12
    alone = {**PLAIN, "moe": curve(0.8, (0.01, -0.01, 0.0))}
    unpaired = Findings.of(record(alone), record(FP8), prices()).cost(("moe",))
    assert unpaired.error > 0.03 and unpaired.num_seeds == 3
    gaps = Findings.of(record(alone), record(FP8), prices()).gap("moe", "dense")
    each = [a / b - 1 for a, b in zip(alone["moe"][1000], PLAIN["dense"][1000])]  # noqa: B905
    mean = sum(each) / 3
    error = math.sqrt(sum((x - mean) ** 2 for x in each) / 2 / 3)
    assert gaps.error == pytest.approx(error, rel=0.01)


def test_fp8_moves_its_twin_s_line_or_leaves_it():
    found = findings()
    moved, equal = (
        found.cost(("fp8",), Assumptions(fp8=way)).value
        for way in ("as measured", "equal")
    )
    assert equal == pytest.approx(1.0)
    assert moved == pytest.approx(1.02**5, rel=0.001)  # L ~ n^-1/5


def test_what_lies_beyond_the_runs_has_no_cost():
    never = {**PLAIN, "mla": curve(1.6)}
    found = Findings.of(record(never), record(FP8), prices())
    with pytest.raises(ValueError, match="do not reach"):
        found.cost(("mla",))
    result = ladder_results.result(record(never), record(FP8), prices())
    assert result["cost"]["mla"] is None and "reach" in result["not_reached"]["mla"]
    assert result["cost"]["moe overlap"] == pytest.approx(0.8)
    assert list(result["cost"]) == [" ".join(some) for some in ladder.subsets()]
    assert result["created"] == "2026-01-02"


def test_seeds_that_a_model_lacks_count_for_none():
    fewer = {**PLAIN, "moe": {n: losses[:2] for n, losses in PLAIN["moe"].items()}}
    assert Findings.of(record(fewer), record(FP8), prices()).seeds == (0, 1)


def test_each_assumption_changes_the_price():
    found = findings()
    base = found.per_token_us(("moe",))
    series = found.per_token_us(("moe",), Assumptions(hops="series"))
    often = Assumptions(hops="series", micro_batches="as trained")
    assert series == pytest.approx(base + 1000 / 120)
    assert found.per_token_us(("moe",), often) == pytest.approx(base + 1000 / 4)


@pytest.mark.parametrize(("error", "said"), [(0.03, True), (0.04, False)])
def test_a_difference_counts_beyond_student_s_t(error, said):
    assert Estimate(1.1, error, 5).differs_from(1.0) is said
    assert not Estimate(1.1, 0.01, 2).differs_from(1.0)


# --- what is kept ---


def test_the_kept_record_is_whole_and_says_what_its_parts_say():
    rates, lengths, fp8, kept_prices, result = map(read, LADDER_NAMES)
    assert not (rates["missing"] or lengths["missing"] or fp8["missing"])
    found = Findings.of(lengths, fp8, kept_prices)
    assert found.seeds == SCALE.seeds and set(result["cost"]) == {
        " ".join(some) for some in ladder.subsets()
    }
    again = ladder_results.result(lengths, fp8, kept_prices)
    assert json.loads(json.dumps(again)) == result
    chosen = ladder_plan.best_rates(rates["runs"])
    for run in (*lengths["runs"], *fp8["runs"]):
        label = ladder_plan.twin_of(run["label"]) if run["config"]["fp8"] else None
        assert run["training"]["lr"] == chosen[label or run["label"]]


def test_the_kept_prices_of_v3_s_step_are_what_is_replayed_now():
    steps = read("cost_ladder_prices")["v3_step_s"]
    reached = v3_step.fit(v3_step.deepseek_v3_step(batch_size=4096))
    now = v3_ladder.step_s(("mla", "fp8"), reached)
    assert steps["mla fp8"]["pipelined"] == pytest.approx(now, abs=1e-3)
    assert steps["moe mla fp8 overlap"]["pipelined"] < steps["moe mla fp8"]["pipelined"]
