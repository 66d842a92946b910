"""V3's step: what was fitted, what follows, and what the links cost."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tiny_lm import costs, hardware
from tiny_lm.parallel import v3_step
from tiny_lm.parallel.plan import Plan
from tiny_lm.parallel.step_tape import write
from tiny_lm.parallel.v3_step import (
    Row,
    deepseek_v3_step,
    fit,
    layout_of,
    machine,
)
from tiny_lm.replay.simulation import replay

ROOT = Path(__file__).resolve().parents[1]
SHORT = {"batch_size": 128 * 32}

# A dozen replays of a whole step and some of a quarter, which has the same weight
# gradients on their own, in a process without the tests' shape checks: they make each
# of them several times as slow.
WHOLE = """
import pickle, sys, time
from dataclasses import replace
from tiny_lm.parallel.v3_step import *
from tiny_lm.replay.simulation import play_ps

start = time.process_time()
tapes, quarter = deepseek_v3_step(), deepseek_v3_step(batch_size=128 * 32)
program = Program(tapes, mirror=True)
found = {"1W": fit(quarter, "1W"), "1F1B": fit(tapes, "1F1B")}
timelines = {
    part: play(program, machine(reached=reached)) for part, reached in found.items()
}
rows = {part: compare(timeline) for part, timeline in timelines.items()}
timeline = timelines["1W"]
mtp = compare(timeline, replace(deepseek_v3(), num_mtp=1))
slow = replace(machine(reached=found["1W"]), nvlink_alpha_s=7e-6, network_alpha_s=7e-6)
alpha = play_ps(program, slow) / timeline.step_ps
parts, step_s = parts_s(timeline), timeline.step_ps / 1e12
split = fit(quarter, "1W", "split")
other = play(program, machine(reached=split))
readings = {reading: parts_s(timelines["1F1B"], reading) for reading in READINGS}
split_rows = compare(other, reading="split")
sheet = replace(machine(), bf16_efficiency=1.0, fp8_efficiency=1.0)
used = {
    hops: compare(play(program, sheet, hops=hops))[-1].replayed
    for hops in ("pipelined", "series")
}
seconds = time.process_time() - start
names = "found rows mtp alpha parts step_s split readings split_rows used seconds"
pickle.dump({name: globals()[name] for name in names.split()}, sys.stdout.buffer)
"""


@pytest.fixture(scope="module")
def whole():
    """What the script above found."""
    run = subprocess.run(
        [sys.executable, "-c", WHOLE],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr.decode()
    return SimpleNamespace(**pickle.loads(run.stdout))


def by_part(rows):
    return {row.part: row for row in rows}


def test_the_published_parts_as_printed_sum_to_19_90():
    assert sum(v3_step.PUBLISHED_PARTS_S.values()) == pytest.approx(19.90)


def test_the_fitted_part_is_met_and_the_rest_predicted(whole):
    assert 0.4 < whole.found["1W"] < 0.5
    rows = by_part(whole.rows["1W"])
    assert rows["1W"].replayed == pytest.approx(0.48, rel=1e-3)
    assert 0 < rows["step"].deviation < 0.10
    assert abs(rows["bubble"].deviation) < 0.05
    assert abs(rows["1B"].deviation) < 0.05
    assert 0.05 < rows["1F1B"].deviation < 0.15
    assert 0.2 < rows["1F"].deviation < 0.3
    assert -0.15 < rows["optimizer"].deviation < 0


def test_another_part_may_be_fitted(whole):
    assert whole.found["1W"] < whole.found["1F1B"] < 0.55
    rows = by_part(whole.rows["1F1B"])
    assert abs(rows["1F1B"].deviation) < 1e-3
    assert abs(rows["step"].deviation) < 0.03


def test_parts_add_up_to_the_step(whole):
    assert sum(whole.parts.values()) == pytest.approx(whole.step_s)
    assert by_part(whole.rows["1W"])["step"].replayed == whole.step_s


def test_rate_and_utilization_follow_from_the_step(whole):
    rows = by_part(whole.rows["1W"])
    ratio = rows["step"].published / rows["step"].replayed
    for name in ("TFLOP/s", "utilization in %"):
        made = rows[name].replayed / rows[name].published
        assert made == pytest.approx(ratio, rel=0.005)


def test_utilization_counts_the_flops_of_the_model_that_is_named(whole):
    plain = whole.rows["1W"]
    assert whole.mtp[-1].replayed > 1.03 * plain[-1].replayed
    assert whole.mtp[:-2] == plain[:-2]


def test_a_part_that_no_rate_explains_is_refused():
    short = deepseek_v3_step(**SHORT)
    with pytest.raises(ValueError, match="unknown part '2F'; there are: 1F, bubble"):
        fit(short, "2F")
    with pytest.raises(ValueError, match="no rate makes optimizer as long as"):
        fit(short, "optimizer")
    with pytest.raises(ValueError, match="1W takes longer than published at the mea"):
        fit(deepseek_v3_step(schedule="zb1p", **SHORT), "1W")


def test_doubling_alpha_changes_little(whole):
    assert 1 < whole.alpha < 1.01


def test_the_machines_differ_in_nvlink_and_in_nothing_else():
    h800, h100 = machine("h800", 0.5), machine("h100", 0.5)
    rate = {"nvlink_bytes_per_s": h100.nvlink_bytes_per_s, "name": h100.name}
    assert replace(h800, **rate) == h100
    assert h800.nvlink_bytes_per_s * h800.nvlink_efficiency == 160e9
    assert h100.nvlink_bytes_per_s == hardware.H100.nvlink_bytes_per_s / 2
    assert h800.network_bytes_per_s * h800.network_efficiency == pytest.approx(40e9)
    assert machine(reached=0.5).fp8_efficiency == machine().fp8_efficiency / 2
    with pytest.raises(ValueError, match="links must be h800 or h100, got 'a100'"):
        machine("a100")


def test_options_reach_the_tapes():
    plain = deepseek_v3_step(**SHORT)
    for change in ({"fp8_wire": False}, {"node_limit": False}, {"num_mtp": 1}):
        assert deepseek_v3_step(**change, **SHORT) != plain
    assert deepseek_v3_step(overlap=False, **SHORT) != plain


def test_a_whole_lone_backward_may_be_read_as_two_parts(whole):
    """What 1B loses 1W gets, and no second is counted twice."""
    one, two = (whole.readings[reading] for reading in ("whole", "split"))
    assert two["1W"] > 1.5 * one["1W"]
    assert two["1W"] + two["1B"] == pytest.approx(one["1W"] + one["1B"])
    for part in ("1F", "1F1B", "bubble", "optimizer"):
        assert two[part] == pytest.approx(one[part])
    with pytest.raises(ValueError, match="unknown reading 'half'; there are: whole"):
        v3_step.parts_s(replay([], machine()), "half")


def test_the_other_reading_fits_a_rate_at_which_nothing_else_fits(whole):
    assert whole.split > 1.5 * whole.found["1W"]
    rows = by_part(whole.split_rows)
    assert rows["1W"].replayed == pytest.approx(0.48, rel=1e-3)
    assert rows["step"].deviation == pytest.approx(-0.34, abs=0.02)
    assert rows["bubble"].deviation == pytest.approx(-0.30, abs=0.02)
    assert rows["1B"].deviation < -0.4


def test_with_ideal_products_the_hops_decide_what_is_left(whole):
    """The cost page: products are the largest part only if the hops overlap."""
    published = 100 * costs.PUBLISHED_MFU[True]
    lost = {hops: 100 - used for hops, used in whole.used.items()}
    assert lost["pipelined"] < 20 < whole.used["pipelined"] - published
    assert lost["series"] > whole.used["series"] - published


def test_all_of_it_takes_less_than_two_minutes(whole):
    assert whole.seconds < 120


def test_a_row_deviates_by_a_share_of_what_was_published():
    assert Row("step", 20.0, 21.0).deviation == pytest.approx(0.05)


@pytest.mark.parametrize("num_gpus", v3_step.SCALES)
def test_a_layout_has_the_gpus_that_it_is_asked_for(num_gpus):
    layout = layout_of(num_gpus)
    assert (layout.num_gpus, layout.num_micro) == (num_gpus, 120)


def test_unknown_sizes_are_refused():
    with pytest.raises(ValueError, match="no layout for 100 GPUs; there are: 8, 64"):
        layout_of(100)


def test_records_grow_with_stages_and_not_with_gpus():
    """2048 GPUs are replayed from as many tapes as 1024, and hardly more than 8."""
    small, half, v3 = (
        write(Plan(config=v3_step.deepseek_v3(), layout=layout_of(num_gpus)))
        for num_gpus in (8, 1024, 2048)
    )
    sizes = [[len(tape.records) for tape in made] for made in (small, half, v3)]
    assert sizes[2] == sizes[1]
    assert sum(sizes[2]) < 1.05 * sum(sizes[0])
