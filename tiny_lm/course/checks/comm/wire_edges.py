"""Task 5.5, tiles that end early, bytes that are counted, and the road home.

Chapter: 05_comm/emulated_gpus
Source: deepseek_v3, section 3.3.3; deep_ep
"""

from functools import partial

import torch
import torch.nn.functional as F

from tiny_lm.course.checks.comm import rehearsal as comm
from tiny_lm.course.checks.comm.messages import by_hand, random
from tiny_lm.course.checks.comm.wire import BYTES, CALLS, CAME, fp8_wire, task_5_5
from tiny_lm.quantize import dequantize_tiles, quantize_tiles

HOME = tuple(name.replace("there", "home") for name in (*CAME, *CALLS, *BYTES))
TWO_TILES = by_hand(
    [[448.0, 17.0, 1.1, 0.0, 1.1, 0.3], [0.0, 0.0, 0.0, 0.0, 448.0, 17.0]],
    4,
    "tiles of 4 and of 2: in the first 1.1 becomes 1.125, in the second it stays 1.1",
)
tiles = task_5_5.asks(
    "there: a scale for each tile, and the last tile may be shorter",
    TWO_TILES,
    only=CAME,
    mistakes={
        "codes, scales = quantize_tiles(rows, tile) => codes, scales = quantize_tiles("
        "rows, width) ;; return dequantize_tiles(codes, scales, tile) => "
        "return dequantize_tiles(codes, scales, width)": "One scale served a "
        "whole row. Each tile of it has its own.",
        "return dequantize_tiles(codes, scales, tile) => return dequantize_tiles("
        "codes, scales[:, :1].expand_as(scales), tile)": "The first scale of a row "
        "was used for all of its tiles.",
        "return dequantize_tiles(codes, scales, tile) => "
        "return dequantize_tiles(codes, scales.bfloat16().float(), tile)": "The scales "
        "were rounded to BF16. They are numbers of FP32, four bytes each.",
        "return dequantize_tiles(codes, scales, tile) => "
        "return dequantize_tiles(codes, scales.flip(1), tile)": "The scales of a row "
        "came in the wrong order.",
    },
)


@tiles.mistake(
    "One scale served all rows of a rank, so that large rows rounded the small ones. "
    "Each tile of each row has its own."
)
def one_scale_a_rank(group, tile):
    def there(rows, send_counts, receive_counts):
        scale = rows.abs().amax().clamp(min=1e-12) / 448 if len(rows) else rows.sum()
        codes = (rows / scale).to(torch.float8_e4m3fn).view(torch.uint8)
        came = comm.all_to_all(codes, send_counts, receive_counts, group)
        scales = comm.all_gather(scale[None], group)
        each = scales.repeat_interleave(torch.tensor(receive_counts))
        return came.view(torch.float8_e4m3fn).float() * each[:, None]

    return there, fp8_wire(group, tile)[1]


IN_FULL = (
    "The numbers are rounded to FP8, but they travel as FP32, four bytes each. It is "
    "the codes that have to travel."
)
message = task_5_5.asks(
    "there: one message, of a byte a number and four a tile",
    TWO_TILES,
    random(12, 8),
    only=(*CALLS, *BYTES),
    mistakes={
        "[codes.view(torch.uint8), => [F.pad(codes.view(torch.uint8), (0, -width % "
        "tile)), ;; came[:, width:] => came[:, width + -width % tile :]": "The row was "
        "filled up to whole tiles, and the filling travelled with it.",
    },
)


@message.mistake(
    "Codes and scales went as two messages. That is right, and waits for the network "
    "twice: side by side they are one."
)
def two_messages(group, tile):
    def there(rows, send_counts, receive_counts):
        codes, scales = quantize_tiles(rows, tile)
        send = partial(
            comm.all_to_all, sends=send_counts, receives=receive_counts, group=group
        )
        codes = send(codes.view(torch.uint8)).view(torch.float8_e4m3fn)
        return dequantize_tiles(codes, send(scales), tile)

    return there, fp8_wire(group, tile)[1]


@message.mistake(IN_FULL)
def rounded_before(group, tile):
    def there(rows, send_counts, receive_counts):
        rows = dequantize_tiles(*quantize_tiles(rows, tile), tile)
        return comm.all_to_all(rows, send_counts, receive_counts, group)

    return there, fp8_wire(group, tile)[1]


@message.mistake(
    "Codes travelled as numbers of two or four bytes. `.view(torch.uint8)` names the "
    "one byte of each."
)
def wide_codes(group, tile):
    def there(rows, send_counts, receive_counts):
        codes, scales = quantize_tiles(rows, tile)
        message = torch.cat([codes.float(), scales], dim=1)
        came = comm.all_to_all(message, send_counts, receive_counts, group)
        codes = came[:, : rows.shape[1]].to(torch.float8_e4m3fn)
        return dequantize_tiles(codes, came[:, rows.shape[1] :], tile)

    return there, fp8_wire(group, tile)[1]


@message.mistake(IN_FULL)
def rounded_after(group, tile):
    def there(rows, send_counts, receive_counts):
        came = comm.all_to_all(rows, send_counts, receive_counts, group)
        return dequantize_tiles(*quantize_tiles(came, tile), tile)

    return there, fp8_wire(group, tile)[1]


home = task_5_5.asks(
    "home: BF16, two bytes a number, and numbers of the rows' own kind come out",
    TWO_TILES,
    only=HOME,
    mistakes={
        "return there, home => return there, there": "The way home was rounded to FP8, "
        "too. What comes home is added up at the token, and eight bits are too coarse "
        "for that: BF16.",
        "half = rows.to(torch.bfloat16) => half = dequantize_tiles(*quantize_tiles("
        "rows, tile), tile).to(torch.bfloat16)": "Home, rows were rounded to FP8 and "
        "then to BF16. BF16 alone is meant.",
        "half = rows.to(torch.bfloat16) => half = rows": "Home, rows travelled as they "
        "are, four bytes a number. BF16 takes two.",
        "half = rows.to(torch.bfloat16) => half = rows.to(torch.float16)": "Home, rows "
        "travelled as FP16, which ends at 65,504. BF16 has as many bytes and the range "
        "of FP32.",
        "half = rows.to(torch.bfloat16) => half = rows.to(torch.bfloat16).float()": (
            "Home, rows were rounded to BF16 and travelled as FP32: the cast back to "
            "four bytes belongs behind the trip."
        ),
    },
)

task_5_5.asks(
    "equals the definition on random rows, counts and widths",
    random(16, 4),
    random(20, 16),
    random(4, 128),
    random(132, 128, 2),
)


@task_5_5.accepts
def scales_first(group, tile):
    def pack(rows):
        codes, scales = quantize_tiles(rows.float(), tile)
        flat = scales.contiguous().view(torch.uint8), codes.contiguous()
        return torch.hstack([flat[0], flat[1].view(torch.uint8)])

    def there(rows, sends, receives):
        came = comm.all_to_all(pack(rows), sends, receives, group)
        split = came.shape[1] - rows.shape[1]
        scales = came[:, :split].contiguous().view(torch.float32)
        codes = came[:, split:].clone().view(torch.float8_e4m3fn)
        return dequantize_tiles(codes, scales, tile).to(rows.dtype)

    def home(rows, sends, receives):
        return comm.all_to_all(rows.bfloat16(), sends, receives, group).type_as(rows)

    return there, home


@task_5_5.accepts
def in_tiles_by_itself(group, tile):
    def there(rows, sends, receives):
        n, width = rows.shape
        padded = F.pad(rows, (0, -width % tile)).unflatten(1, (-1, tile))
        top = padded.abs().amax(-1)
        scales = torch.where(top > 0, top / 448, torch.ones_like(top))
        codes = (padded / scales[..., None]).clamp(-448, 448).to(torch.float8_e4m3fn)
        codes = codes.flatten(1)[:, :width].contiguous()
        message = rows.new_empty(n, width + 4 * scales.shape[1], dtype=torch.uint8)
        message[:, :width] = codes.view(torch.uint8)
        message[:, width:] = scales.contiguous().view(torch.uint8)
        came = comm.all_to_all(message, sends, receives, group)
        again = came[:, width:].contiguous().view(torch.float32)
        values = came[:, :width].contiguous().view(torch.float8_e4m3fn).float()
        return values * again.repeat_interleave(tile, 1)[:, :width]

    def home(rows, sends, receives):
        bits = rows.to(torch.bfloat16).view(torch.uint8)
        came = comm.all_to_all(bits, sends, receives, group)
        return came.view(torch.bfloat16).to(rows.dtype)

    return [there, home]
