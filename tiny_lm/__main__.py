"""The command line: train, generate, cost.

Chapter: 06_together/full_model

    python -m tiny_lm train tiny --ranks 4
    python -m tiny_lm generate runs/tiny-1 --prompt "def "
    python -m tiny_lm cost deepseek_v3

Bad input ends in one line and exit code 2, before any process starts.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny_lm import costs, runs
from tiny_lm.config import PRESETS, TrainConfig, preset
from tiny_lm.data import encode
from tiny_lm.generate import generate, stream
from tiny_lm.gpus import launch
from tiny_lm.job import Job, new_run_folder
from tiny_lm.train import run

SAMPLE_PROMPT = "def "
SAMPLE_BYTES = 160


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tiny_lm", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands.add_parser("train", help="train a preset and save the run"))
    _add_generate(commands.add_parser("generate", help="continue a prompt"))
    cost = commands.add_parser("cost", help="parameters, FLOPs, cache, hours")
    cost.add_argument("preset", nargs="?", default="tiny", help=", ".join(PRESETS))
    cost.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    t = TrainConfig()
    add = parser.add_argument
    add("preset", nargs="?", default="tiny", help="tiny (default) or tiny_dense")
    add("--ranks", type=int, default=4, help="emulated GPUs (default 4)")
    add("--steps", type=int, default=t.steps, help=f"default {t.steps}")
    add("--batch-size", type=int, default=t.batch_size, help="over all ranks")
    add("--seq-len", type=int, default=t.seq_len, help=f"bytes, default {t.seq_len}")
    add("--lr", type=float, default=t.lr, help=f"peak, default {t.lr}")
    add("--seed", type=int, default=t.seed)
    add("--mtp", type=int, default=0, help="further tokens predicted (default 0)")
    add("--data", type=Path, help="a UTF-8 file or a folder; default: Python's source")
    add("--out", type=Path, help="folder of the run; default runs/PRESET-N")
    add("--device", default="cpu", help="cpu (default) or cuda")
    add("--json", action="store_true", help="end with one JSON line on stdout")


def _add_generate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, help="folder of a saved run")
    add("--prompt", required=True)
    add("--bytes", type=int, default=200, help="length of the continuation")
    add("--temperature", type=float, default=0.8)
    add("--top-p", type=float, default=0.95)
    add("--seed", type=int, default=0)


def _train(args: argparse.Namespace) -> None:
    config = replace(preset(args.preset), num_mtp=args.mtp)
    if config.name not in ("tiny", "tiny_dense"):
        raise ValueError(f"{config.name} is too large to train here; take tiny")
    training = TrainConfig(
        steps=args.steps,
        batch_size=args.batch_size,
        seq_len=args.seq_len,
        lr=args.lr,
        seed=args.seed,
        warmup_steps=min(TrainConfig().warmup_steps, args.steps // 10),
    )
    ranks = int(os.environ["WORLD_SIZE"]) if launch.under_torchrun() else args.ranks
    job = Job(
        config=config,
        training=training,
        ranks=ranks,
        data=args.data,
        out=args.out or new_run_folder(Path("runs"), config.name),
        device=args.device,
    )
    summary = run(job)
    if summary is not None:
        _print_summary(summary, as_json=args.json)


def _print_summary(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        shown = f"{value:,}" if isinstance(value, int) else value
        print(f"{name:>20}  {shown}")
    text = generate(runs.load_model(Path(summary["run"])), SAMPLE_PROMPT, SAMPLE_BYTES)
    print(f"\nIt writes, after {SAMPLE_PROMPT!r}:\n\n{SAMPLE_PROMPT}{text}")


def _generate(args: argparse.Namespace) -> None:
    if args.bytes < 1:
        raise ValueError(f"--bytes must be positive, got {args.bytes}")
    model = runs.load_model(args.run)
    sys.stdout.write(args.prompt)
    for byte in stream(
        model, encode(args.prompt), args.bytes, args.temperature, args.top_p, args.seed
    ):
        sys.stdout.flush()
        sys.stdout.buffer.write(bytes([byte]))
    print(flush=True)


def _cost(args: argparse.Namespace) -> None:
    config = preset(args.preset)
    print(json.dumps(costs.summary(config)) if args.json else costs.table(config))


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 where a rank failed; 2 for bad input.
    """
    args = _parser().parse_args(argv)
    command = {"train": _train, "generate": _generate, "cost": _cost}[args.command]
    try:
        command(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
