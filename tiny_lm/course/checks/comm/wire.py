"""Task 5.5, there: codes and scales of one row travel side by side, as bytes.

Chapter: 05_comm/emulated_gpus
Source: deepseek_v3, section 3.3.3; deep_ep
"""

import torch

from tiny_lm.course.checks.comm import rehearsal as comm
from tiny_lm.course.checks.comm.messages import by_hand
from tiny_lm.course.checks.task import Task
from tiny_lm.quantize import dequantize_tiles, quantize_tiles


def fp8_wire(group, tile):
    def there(rows, send_counts, receive_counts):
        width = rows.shape[1]
        codes, scales = quantize_tiles(rows, tile)
        parts = [codes.view(torch.uint8), scales.view(torch.uint8)]
        message = torch.cat(parts, dim=1)
        came = comm.all_to_all(message, send_counts, receive_counts, group)
        codes = came[:, :width].view(torch.float8_e4m3fn)
        scales = came[:, width:].contiguous().view(torch.float32)
        return dequantize_tiles(codes, scales, tile)

    def home(rows, send_counts, receive_counts):
        half = rows.to(torch.bfloat16)
        came = comm.all_to_all(half, send_counts, receive_counts, group)
        return came.to(rows.dtype)

    return there, home


task_5_5 = Task(
    id="5.5",
    lab="05_comm",
    title="FP8 on the wire",
    name="fp8_wire",
    piece="comm.fp8_wire",
    difficulty=2,
    minutes=20,
    points=3,
    reference=fp8_wire,
    returns=("there", "home"),
    tolerance=1e-6,
    errors={
        "Invalid scalar type": "gloo carries no FP8 codes. `.view(torch.uint8)` names "
        "their bytes, and changes none.",
        "Unconvertible NCCL type": "The wire carries no FP8 codes. "
        "`.view(torch.uint8)` names their bytes, and changes none.",
        "must be divisible": "Four bytes become a number of FP32 only where they begin "
        "at a multiple of four: `.contiguous()` moves a slice to such a place.",
        "must have a stride of one": "Bytes of a number must lie side by side: "
        "`.contiguous()` first.",
        "calls of the ranks do not fit": "Every row of the message must be as wide on "
        "all ranks, and the counts are handed on as they are.",
        "scales": "There are other scales than tiles. Where do the bytes of the codes "
        "end, and those of the scales begin?",
    },
    hints=(
        "A tensor of bytes can be cut and glued like any other: the codes are one byte "
        "each already, and a scale is four.",
        ".view(torch.uint8) turns (n, D) codes into (n, D) bytes and (n, tiles) scales "
        "into (n, 4 tiles) bytes. torch.cat along dim 1 makes one message, which goes "
        "through comm.all_to_all; where it arrives, cut it at D.",
        "message = torch.cat([codes.view(torch.uint8), scales.view(torch.uint8)], 1); "
        "back: came[:, :D].view(torch.float8_e4m3fn) and came[:, D:].contiguous()"
        ".view(torch.float32), then dequantize_tiles. home: rows.to(torch.bfloat16), "
        "comm.all_to_all, .to(rows.dtype).",
    ),
)

CAME = tuple(f"there, to rank {rank} came" for rank in range(4))
BYTES = tuple(f"there, bytes that rank {rank} sends:" for rank in range(4))
CALLS = tuple(f"there, calls of rank {rank}:" for rank in range(4))
ROUND = by_hand(
    [[448.0, 17.0, 1.1, 0.0]], 4, "with scale 1, 17 becomes 16, and 1.1 becomes 1.125"
)
LEFT_BEHIND = (
    "The scales stayed behind: rows that came were multiplied with those of rows that "
    "left. Each row's scales travel with it."
)
NO_BYTES = (
    "A number was turned into the nearest whole one, and its bits were lost. "
    ".view(torch.uint8) takes the bits as they are; .to(torch.uint8) converts."
)
there = task_5_5.asks(
    "there: a row arrives as its codes and its own scales say",
    ROUND,
    only=CAME,
    mistakes={
        "return dequantize_tiles(codes, scales, tile) => "
        "return dequantize_tiles(codes, quantize_tiles(rows, tile)[1], tile)": (
            LEFT_BEHIND
        ),
        "comm.all_to_all(message, send_counts, receive_counts, group) => "
        "comm.all_to_all(message, receive_counts, send_counts, group)": "The counts "
        "have changed places: first how many rows go to each rank, then how many come.",
        "came[:, :width].view(torch.float8_e4m3fn) => "
        "came[:, :width].view(torch.float8_e5m2).float() ;; codes, scales = "
        "quantize_tiles(rows, tile) => codes, scales = quantize_tiles(rows, tile) ; "
        "codes = codes.float().to(torch.float8_e5m2) ;; "
        "return dequantize_tiles(codes, scales, tile) => return codes * "
        "scales.repeat_interleave(tile, 1)[:, :width]": "The codes are of E5M2, which "
        "keeps one bit of fraction less. E4M3 travels here.",
        "return dequantize_tiles(codes, scales, tile) => return codes.float()": "The "
        "codes were taken for the numbers. What arrives is code times scale.",
        "codes.view(torch.uint8), => codes.to(torch.uint8),": NO_BYTES,
        "scales.view(torch.uint8)] => "
        "scales.to(torch.uint8).repeat_interleave(4, 1)]": NO_BYTES,
        "return dequantize_tiles(codes, scales, tile) => "
        "return dequantize_tiles(codes, 1 / scales, tile)": "The scale is upside down: "
        "x / scale went into the codes, so it is code times scale that comes out.",
    },
)


@there.mistake(
    "Nothing was rounded to FP8: the rows arrive as they were. It is the road home "
    "that keeps more bits."
)
def as_it_is(group, tile):
    def there(rows, send_counts, receive_counts):
        return comm.all_to_all(rows, send_counts, receive_counts, group)

    return there, fp8_wire(group, tile)[1]


@there.mistake(
    "There, rows travelled as BF16. They are to travel as FP8 codes with scales, which "
    "takes about half."
)
def half_there(group, tile):
    return (fp8_wire(group, tile)[1],) * 2


@there.mistake(
    "The two roads have changed places: there first, which is FP8, then home, in BF16."
)
def the_other_way_round(group, tile):
    return fp8_wire(group, tile)[::-1]


@there.mistake(
    "The rows were cast to E4M3 without scales: what lies beyond 448 is cut off there, "
    "and small numbers become zero."
)
def without_scales(group, tile):
    def there(rows, send_counts, receive_counts):
        codes = rows.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)
        came = comm.all_to_all(codes, send_counts, receive_counts, group)
        return came.view(torch.float8_e4m3fn).float()

    return there, fp8_wire(group, tile)[1]
