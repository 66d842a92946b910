"""What an H100 does with FP8: its bits beside the course's, and its rates.

Chapter: 04_fp8
Source: course

    python -m tiny_lm.course.bench.hardware --out FOLDER

needs a Hopper GPU and takes two minutes. It quantises with the course's own functions,
multiplies with `torch._scaled_mm`, and asks whether the accumulator model gives the
same bits. It writes `hardware_rates.json`, which `tiny_lm.hardware` reads,
`hardware_bits.json`, the comparison, which belongs in `chapters/_results`, and
`tensor_core.safetensors`, inputs and outputs for `tests/data`.
"""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tiny_lm import console
from tiny_lm.accumulator import ORDERS, scaled_matmul, tensor_core_matmul
from tiny_lm.files import prepare, to_json, write_whole
from tiny_lm.formats import E4M3, E5M2, Format, encode
from tiny_lm.quantize import (
    dequantize_blocks,
    dequantize_tiles,
    quantize_blocks,
    quantize_tiles,
)

COMMAND = "python -m tiny_lm.course.bench.hardware --out FOLDER"
GROUP = 128
SEEN, KEPT = 64, 8  # rows and columns of a product that are compared, and kept
SIDE = 512  # of the products whose bits are compared
WIDTHS = (512, 4096)  # that are summed over
PEAK_SIDE = 8192
Draw = Callable[..., Tensor]
DRAWS: dict[str, Draw] = {"normal": torch.randn, "uniform": torch.rand}


def sample(name: str, num_rows: int, width: int, seed: int) -> Tensor:
    """Random numbers of both signs, or of one."""
    generator = torch.Generator().manual_seed(seed)
    return DRAWS[name](num_rows, width, generator=generator)


def environment() -> dict[str, str]:
    """What computed, and when."""
    return {
        "device": torch.cuda.get_device_name(),
        "driver": _driver(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip().splitlines()[0]


def multiply(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, fast: bool, dtype: Any
) -> Tensor:
    """`a @ b.T` on the tensor cores; scales as `torch._scaled_mm` wants them."""
    return torch._scaled_mm(
        a, b.T, scale_a, scale_b, out_dtype=dtype, use_fast_accum=fast
    )


def tensorwise(a: Tensor, b: Tensor, fast: bool, dtype: Any = torch.float32) -> Tensor:
    """Codes as they are: both scales are 1."""
    one = torch.ones((), device=a.device)
    return multiply(a, b, one, one, fast, dtype)


def blockwise(
    a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, dtype: Any = torch.float32
) -> Tensor:
    """1 x 128 tiles times 128 x 128 blocks; both scales lie column after column."""
    return multiply(a, b, sa.T.contiguous().T, sb.contiguous().T, False, dtype)


def same(found: Tensor, wanted: Tensor) -> dict[str, float]:
    """The share of equal bits, and how far the others are."""
    difference = (found.double() - wanted.double()).norm() / wanted.double().norm()
    return {
        "equal": float((found == wanted).double().mean()),
        "difference": float(difference),
    }


def attempt(case: str, compare: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found, or what the library said that cannot do it."""
    try:
        return {"case": case} | compare()
    except (RuntimeError, ValueError) as error:
        return {"case": case, "refused": str(error).splitlines()[0]}


def accumulation(keep: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The tensor core's sums beside the model's, with fast accumulation on and off."""
    return [
        attempt(
            f"{name}-{width}-{first.name}-{'fast' if fast else 'promoted'}",
            partial(_accumulation, name, width, first, fast, keep),
        )
        for name, width in product(DRAWS, WIDTHS)
        for first, fast in product((E4M3, E5M2), (True, False))
    ]


def _accumulation(
    name: str, width: int, first: Format, fast: bool, keep: dict[str, Tensor]
) -> dict[str, Any]:
    a = encode(sample(name, SIDE, width, 0), first)
    b = encode(sample(name, SIDE, width, 1), E4M3)
    y = tensorwise(a.cuda(), b.cuda(), fast).cpu()[:SEEN, :SEEN]
    a, b = a[:SEEN], b[:SEEN]
    key = f"{name}-{width}-{first.name}"
    inputs = {"a": a.view(torch.uint8), "b": b.view(torch.uint8)}
    keep.update({f"{key}.{end}": x[:KEPT].clone() for end, x in inputs.items()})
    ending = "fast" if fast else "promoted"
    keep[f"{key}.{ending}"] = y[:KEPT, :KEPT].contiguous()
    models = {"no promotion": None, f"promotion every {GROUP}": GROUP}
    return {
        "outputs": y.numel(),
        "of_exact": same(y, a.double() @ b.double().T),
        "models": {n: same(y, tensor_core_matmul(a, b, m)) for n, m in models.items()},
    }


def scaled(keep: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Tiles times blocks: codes, scales and products, ours and the hardware's."""
    return [
        attempt(
            f"{name}-{width}-scaled-{str(dtype).removeprefix('torch.')}",
            partial(_scaled, name, width, dtype, keep),
        )
        for name, width in product(DRAWS, WIDTHS)
        for dtype in (torch.float32, torch.bfloat16)
    ]


def _scaled(name: str, width: int, dtype: Any, keep: dict[str, Tensor]):
    x, w = sample(name, SIDE, width, 2), sample(name, SIDE, width, 3)
    here = (*quantize_tiles(x, GROUP), *quantize_blocks(w, GROUP))
    there = (*quantize_tiles(x.cuda(), GROUP), *quantize_blocks(w.cuda(), GROUP))
    y = blockwise(*there, dtype=dtype).cpu()[:SEEN, :SEEN]
    of_gpu = [tensor.cpu() for tensor in there]
    a, sa, b, sb = part = *(t[:SEEN] for t in of_gpu[:3]), of_gpu[3][:1]
    inputs = {"a": a.view(torch.uint8), "sa": sa, "b": b.view(torch.uint8), "sb": sb}
    key = f"{name}-{width}-scaled"
    keep.update({f"{key}.{end}": t[:KEPT].clone() for end, t in inputs.items()})
    ending = str(dtype).removeprefix("torch.")
    keep[f"{key}.{ending}"] = y[:KEPT, :KEPT].contiguous()
    return {
        "outputs": y.numel(),
        "codes_and_scales_equal": [
            torch.equal(one.view(torch.uint8), other.view(torch.uint8))
            for one, other in zip(here, of_gpu, strict=True)
        ],
        "emulated_product": same(y, emulated(*part).to(dtype)),
        "models": {
            order: same(y, scaled_matmul(*part, GROUP, order).to(dtype))
            for order in ORDERS
        },
    }


def emulated(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor) -> Tensor:
    """What the course multiplies: the codes' values, with FP32 sums."""
    x = dequantize_tiles(a, sa, GROUP)
    w = dequantize_blocks(b, sb, GROUP)
    return x @ w.T


def seconds_of(run: Callable[[], object], rounds: int = 20, inside: int = 5) -> float:
    """Median seconds of one call, by the GPU's own clock."""
    for _ in range(3):
        run()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(inside):
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000 / inside)
    return statistics.median(times)


def rates() -> dict[str, float]:
    """FLOP/s of large products, bytes/s of a copy, seconds of a launch."""
    n = PEAK_SIDE
    x = torch.randn(n, n, device="cuda")
    w = torch.randn(n, n, device="cuda") / n**0.5
    a, b = encode(x, E4M3), encode(w * n**0.5, E4M3)
    half_x, half_w, half = x.bfloat16(), w.bfloat16(), torch.bfloat16
    rows = torch.ones(n, 1, device="cuda")
    tiles, blocks = quantize_tiles(x, GROUP), quantize_blocks(w, GROUP)
    scales = tiles[1].T.contiguous().T, blocks[1].contiguous().T
    runs = {
        "bf16": lambda: half_x @ half_w.T,
        "fp8_tensorwise": lambda: tensorwise(a, b, True, half),
        "fp8_tensorwise_promoted": lambda: tensorwise(a, b, False, half),
        "fp8_rowwise": lambda: multiply(a, b, rows, rows.T, True, half),
        "fp8_blockwise": lambda: multiply(tiles[0], blocks[0], *scales, False, half),
    }
    found = {}
    for name, run in runs.items():
        found[f"{name}_flops_per_s"] = 2 * n**3 / seconds_of(run)
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = seconds_of(lambda: target.copy_(source))
    found["copy_bytes_per_s"] = 2 * source.numel() / copy
    return found | launches()


def launches(count: int = 2000) -> dict[str, float]:
    """What a kernel costs that does nothing: in a row, and waited for."""
    one = torch.zeros(1, device="cuda")
    waited = []
    for _ in range(count):
        torch.cuda.synchronize()
        start = time.perf_counter()
        one.add_(1)
        torch.cuda.synchronize()
        waited.append(time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(count):
        one.add_(1)
    torch.cuda.synchronize()
    in_a_row = (time.perf_counter() - start) / count
    return {"launch_s": in_a_row, "launch_and_wait_s": statistics.median(waited)}


def main(arguments: list[str] | None = None) -> None:
    """Compare, measure, print, write.

    Raises:
        ValueError: no Hopper GPU is here.
    """
    parser = console.Parser(prog="python -m tiny_lm.course.bench.hardware")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    args = parser.parse_args(arguments)
    here = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
    if not here:
        raise ValueError("needs a Hopper GPU (H100, H800, H200)")
    prepare(args.out)
    about: dict[str, Any] = environment() | {"command": COMMAND}
    _write(args.out / "hardware_rates.json", about | {"rates": rates()})
    keep: dict[str, Tensor] = {}
    question = "Does the accumulator model give a real tensor core's bits?"
    bits = {"name": "hardware_bits", "question": question} | about
    bits |= {"accumulation": accumulation(keep), "scaled": scaled(keep)}
    _write(args.out / "hardware_bits.json", bits)
    where = {name: about[name] for name in ("device", "driver", "torch", "date")}
    save_file(keep, args.out / "tensor_core.safetensors", metadata=where)


def _write(path: Path, record: dict[str, Any]) -> None:
    text = to_json(record, indent=2)
    print(text, flush=True)
    write_whole(path, text + "\n")


if __name__ == "__main__":
    sys.exit(console.run(main))
