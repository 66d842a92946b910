"""The benchmark measures what it says it measures."""

import json
from dataclasses import replace

import torch

from tiny_lm.config import tiny
from tiny_lm.course.bench import __main__ as command
from tiny_lm.course.bench import exchange as bench_exchange
from tiny_lm.course.bench import fp8 as bench_fp8
from tiny_lm.course.bench import replay as bench_time
from tiny_lm.course.bench import training as bench
from tiny_lm.course.bench.oracle import transformers_config
from tiny_lm.course.bench.turns import Result


def test_both_models_are_of_the_same_size():
    from transformers import DeepseekV3ForCausalLM

    from tiny_lm.model import LanguageModel

    config = replace(tiny(), fp8=None)
    ours = sum(p.numel() for p in LanguageModel(config).parameters())
    theirs = DeepseekV3ForCausalLM(transformers_config(config))
    assert sum(p.numel() for p in theirs.parameters()) == ours


def test_a_step_really_trains(monkeypatch):
    monkeypatch.setattr(bench, "TRAINING", replace(bench.TRAINING, batch_size=4))
    config = replace(tiny(), fp8=None)
    step = bench.our_step(config)
    losses = [step()["loss"] for _ in range(4)]
    assert losses[-1] < losses[0]


def test_the_wide_model_has_the_width_it_is_reported_with():
    assert bench.wide().d_model == 512
    assert bench.wide().moe.num_experts == tiny().moe.num_experts


def test_the_peak_is_a_rate_of_this_machine():
    torch.manual_seed(0)
    assert 1e8 < bench.matmul_peak() < 1e14


def test_a_million_records_are_a_million_records():
    tapes = bench_time.moe_tapes(8, 100)
    assert [len(tape.records) for tape in tapes] == [1000] * 8
    assert all(tape.records[5].sent_bytes(tape.rank) == 7 * 32 * 7392 for tape in tapes)


def test_experts_on_ranks_are_timed_by_both_clocks_beside_their_parts():
    results = bench_exchange.experts_on_ranks(rounds=1)
    names = [f"experts on {ranks} ranks" for ranks in (2, 4)]
    clocks = "wall", "CPU"
    assert [result.name for result in results] == [
        f"{name}, {clock}" for name in names for clock in clocks
    ]
    assert all("ms bare exchange" in result.limit for result in results)
    assert all(result.value > -50 for result in results)


def test_quantising_is_timed_beside_a_copy_of_as_much():
    tiles, *finer = bench_fp8.quantisation_against_memory(side=64)
    assert tiles.aim == "≤ 2" and "GB/s" in tiles.limit and tiles.value > 1
    assert [result.name.split(" / ")[0] for result in finer] == ["MXFP8", "NVFP4"]


def test_the_command_prints_and_writes_what_each_part_measured(
    tmp_path, monkeypatch, capsys
):
    result = Result("tokens", 1234.5, "tokens/s", "> 1", "limit 2")
    monkeypatch.setattr(command, "PARTS", (lambda: [result], lambda: []))
    command.main(tmp_path / "new" / "bench.json")
    assert "1,234.50 tokens/s" in capsys.readouterr().out
    (written,) = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert written["name"] == "tokens" and written["value"] == 1234.5
