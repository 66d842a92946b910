"""The command line: train, generate, export, cost.

Chapter: 06_together/full_model

    python -m tiny_lm train tiny --ranks 4
    python -m tiny_lm generate runs/tiny-1 --prompt "def "
    python -m tiny_lm export runs/tiny-1 released
    python -m tiny_lm cost deepseek_v3

Bad input ends in one line and exit code 2, before any process starts.
"""

import argparse
import contextlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tiny_lm import console, costs, hub, runs
from tiny_lm.config import PRESETS, TrainConfig, preset
from tiny_lm.files import to_json
from tiny_lm.generate import generate, stream
from tiny_lm.gpus import torchrun
from tiny_lm.job import Job, Maker, choose_device
from tiny_lm.layout import Layout
from tiny_lm.train import run

SAMPLE_PROMPT = "def "
SAMPLE_BYTES = 160
CHECKPOINT_EVERY = 50


def _parser() -> argparse.ArgumentParser:
    parser = console.Parser(prog="python -m tiny_lm", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands.add_parser("train", help="train a preset and save the run"))
    _add_generate(commands.add_parser("generate", help="continue a prompt"))
    _add_export(commands.add_parser("export", help="write a transformers folder"))
    cost = commands.add_parser("cost", help="parameters, FLOPs, cache, hours")
    cost.add_argument("preset", nargs="?", default="tiny", help=", ".join(PRESETS))
    cost.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    t = TrainConfig()
    add = parser.add_argument
    add("preset", nargs="?", default="tiny", help="tiny (default) or tiny_dense")
    add("--ranks", type=int, help="emulated GPUs (default 4); torchrun has its own")
    add("--steps", type=int, default=t.steps, help=f"default {t.steps}")
    add("--batch-size", type=int, default=t.batch_size, help="over all ranks")
    add("--seq-len", type=int, default=t.seq_len, help=f"bytes, default {t.seq_len}")
    add("--lr", type=float, default=t.lr, help=f"peak, default {t.lr}")
    add("--seed", type=int, default=t.seed)
    add("--overlap", action="store_true", help="hide transfers: micro-batches in turn")
    add("--zero", action="store_true", help="split the optimizer's states: ZeRO-1")
    add("--mtp", type=int, default=0, help="further tokens predicted (default 0)")
    add("--pp", type=int, default=1, help="ranks along a pipeline (default 1: none)")
    add("--schedule", help="of the pipeline: 1f1b (default), zbv or dualpipev")
    add("--data", type=Path, help="a UTF-8 file or a folder; default: Python's source")
    add("--out", type=Path, help="folder of the run; default runs/PRESET-N")
    add("--resume", action="store_true", help="go on with the run in --out")
    every = {"type": int, "metavar": "N", "default": CHECKPOINT_EVERY}
    add("--checkpoint-every", **every, help="steps; 0: never; default %(default)s")
    add("--device", help="cpu or cuda; default: under torchrun the GPUs, else the CPU")
    add("--tensorboard", action="store_true", help="write event files too")
    add("--pieces", type=Path, help="a folder of labs' answers, to make the model of")
    add("--stand-in", action="store_true", help="replace wrong pieces by tiny_lm's own")
    add("--json", action="store_true", help="end with one JSON line on stdout")


def _add_generate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, help="folder of a saved run, or one that was exported")
    add("--prompt", required=True)
    add("--bytes", type=int, default=200, help="length of the continuation")
    add("--temperature", type=float, default=0.8)
    add("--top-p", type=float, default=0.95)
    add("--seed", type=int, default=0)


def _add_export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, help="folder of a saved run")
    add("folder", type=Path, help="where to; it must be empty, or not there")
    add("--fp8", action="store_true", help="matrices in FP8, as DeepSeek releases them")
    add("--block", type=int, help="side of an FP8 block; default: that of training")
    size = f"largest file of weights, default {hub.SHARD_BYTES:,}"
    add("--shard-bytes", type=int, default=hub.SHARD_BYTES, help=size)


def _train(args: argparse.Namespace) -> None:
    config = replace(preset(args.preset), num_mtp=args.mtp)
    if config.name not in ("tiny", "tiny_dense"):
        raise ValueError(f"{config.name} is too large to train here; take tiny")
    if args.stand_in and not args.pieces:
        raise ValueError("--stand-in is about --pieces: name their folder")
    training = TrainConfig(
        steps=args.steps,
        batch_size=args.batch_size,
        seq_len=args.seq_len,
        lr=args.lr,
        seed=args.seed,
        warmup_steps=min(20, args.steps // 10) if args.steps > 0 else None,
    )
    place = torchrun.placement()
    ranks = place.world_size if place else 4 if args.ranks is None else args.ranks
    if args.ranks not in (None, ranks):
        raise ValueError(f"torchrun started {ranks} ranks: leave --ranks {args.ranks}")
    job = Job(
        config=config,
        training=training,
        ranks=ranks,
        data=args.data,
        tensorboard=args.tensorboard,
        out=args.out,
        device=_device(args, place),
        layout=Layout(
            overlap=args.overlap, zero=args.zero, pp=args.pp, schedule=args.schedule
        ),
        checkpoint_every=args.checkpoint_every,
        resume=args.resume,
    )
    if args.pieces:
        job = _of_pieces(job, args, is_first=place is None or place.rank == 0)
    # torchrun ends its ranks by SIGTERM when one has failed: they have nothing to say.
    with contextlib.nullcontext() if place else console.terminable():
        summary = run(job)
    if summary is not None:
        _print_summary(summary, as_json=args.json, maker=job.maker)


def _device(args: argparse.Namespace, place: torchrun.Placement | None) -> str:
    asked = args.device or ("cpu" if args.pieces else None)
    return choose_device(asked, place.local_size if place else 0)


def _of_pieces(job: Job, args: argparse.Namespace, is_first: bool) -> Job:
    """The job with the learner's pieces in it; says which are whose."""
    from tiny_lm.course.assembly import command  # the one way into the course

    job.check()  # what is wrong with the rest is told before pieces are checked
    maker = command.assemble(args.pieces, args.stand_in, check=is_first)
    job = replace(job, maker=maker)
    job.check()
    if is_first:
        print(command.told(maker, job), file=sys.stderr, flush=True)
    return job


def _print_summary(
    summary: dict[str, Any], as_json: bool, maker: Maker | None = None
) -> None:
    if as_json:
        print(to_json(summary))
        return
    emulated = summary.pop("emulated")
    if maker:
        summary.pop("pieces")  # told before
    for name, value in summary.items():
        shown = f"{value:,}" if isinstance(value, int) else value
        print(f"{name:>20}  {shown}")
    for name, times in emulated.items():
        step, exposed = times["step_ms"], times["exposed_comm_ms"]
        words = f"{step:,.1f} ms a step, {exposed:,.1f} of it waiting for bytes"
        print(f"{name:>20}  {words} (emulated)")
    model = runs.load_model(Path(summary["run"]))
    if maker:
        text = maker.write(model, SAMPLE_PROMPT, SAMPLE_BYTES)
    else:
        text = generate(model, SAMPLE_PROMPT, SAMPLE_BYTES)
    print(f"\nIt writes, after {SAMPLE_PROMPT!r}:\n\n{SAMPLE_PROMPT}{text}")


def _generate(args: argparse.Namespace) -> None:
    if args.bytes < 1:
        raise ValueError(f"--bytes must be positive, got {args.bytes}")
    if not -(2**63) <= args.seed < 2**63:
        raise ValueError(f"--seed has 64 bits, got {args.seed}")
    load = hub.load_for_bytes if hub.is_released(args.run) else runs.load_model
    model = load(args.run)
    prompt = args.prompt.encode(errors="surrogateescape")  # what is no UTF-8 stays
    tokens = torch.tensor(list(prompt), dtype=torch.int64)
    new = stream(model, tokens, args.bytes, args.temperature, args.top_p, args.seed)
    first = next(new)  # here wrong use is refused, before anything is written
    console.write_bytes(prompt + bytes([first]))
    for byte in new:
        console.write_bytes(bytes([byte]))
    console.write_bytes(b"\n")


def _export(args: argparse.Namespace) -> None:
    model = runs.load_model(args.run)
    files = hub.export(model, args.folder, args.fp8, args.shard_bytes, args.block)
    size = sum(file.stat().st_size for file in files)
    print(f"{args.folder}: {size:,} bytes of weights in {len(files)} file(s)")
    block = args.block or hub.block_of(model.config)
    if args.fp8 and not hub.cuts_evenly(model.config, block):
        even = f"--block {hub.even_block(model.config)}"
        print(f"Some matrices end in a block of less than {block}, which transformers")
        print(f"cannot read on a CPU; it reads what {even} writes.")
    if model.config.fp8:
        print("Trained with FP8 products; from here it multiplies in full precision.")


def _cost(args: argparse.Namespace) -> None:
    config = preset(args.preset)
    print(to_json(costs.summary(config)) if args.json else costs.table(config))


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code, as `console` has it.
    """
    args = _parser().parse_args(argv)
    run_of = {"train": _train, "generate": _generate, "export": _export, "cost": _cost}
    command = run_of[args.command]
    return console.run(partial(command, args))


if __name__ == "__main__":
    sys.exit(main())
