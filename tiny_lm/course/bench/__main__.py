"""The command that measures: `python -m tiny_lm.course.bench`.

Chapter: index
Source: course
"""

import sys
from pathlib import Path

import torch

from tiny_lm import console, matmul
from tiny_lm.course.bench import decoding, exchange, experts, fp8, replay, training
from tiny_lm.course.bench.turns import Result
from tiny_lm.files import prepare, to_json, write_whole
from tiny_lm.processor import this_processor

PARTS = (
    training.against_transformers,
    experts.experts_against_others,
    decoding.against_transformers,
    decoding.against_multi_head,
    decoding.training_attention,
    fp8.fp8_against_fp32,
    fp8.quantisation_against_memory,
    training.ranks_against_one_process,
    exchange.experts_on_ranks,
    training.recording_against_the_step,
    replay.replay_of_a_million,
    replay.v3_step_at_scale,
)


def main(out: Path = Path("_build/bench.json")) -> None:
    """Measure everything, print the table, write it as JSON."""
    prepare(out.parent)
    threads, products = torch.get_num_threads(), matmul.library()
    print(f"benchmarks on {threads} threads of {this_processor()}")
    print(f"FP32 products by: {products}; about four minutes")
    results: list[Result] = []
    for part in PARTS:
        for result in part():
            value = f"{result.value:,.2f} {result.unit}"
            print(f"{result.name:34} {value:>18}  {result.aim:8} {result.limit}")
            results.append(result)
    measured = [vars(result) for result in results]
    write_whole(out, to_json(measured, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(console.run(main))
