"""What one rank did in a step, as a list of plain records that any hardware can play.

Chapter: 05_comm/emulated_time
Source: course

A tape holds work and bytes, never time: `replay` adds the hardware, and so the time.
One tape then answers what the same step would cost on another chip or another link.

A GPU has *streams*: each runs its records one after the other, and different streams
run side by side. An event orders two streams: one marks it, the other waits for it.

    Kernel      FLOPs done, bytes read and written in the GPU's own memory
    Collective  bytes for other ranks; starts when the last rank of its group is here
    Send        one message to one rank; does not wait for the receiver
    Receive     waits until that message is here
    Mark        an event happens once this stream gets here
    Wait        this stream stops here until the event has happened

Units: bytes and FLOPs are whole numbers; ranks are global; counting starts at 0.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

FORMAT = "tiny_lm tape 1"
COMPUTE, COMM = "compute", "comm"  # the two streams that every rank has


class Kernel(NamedTuple):
    """One launch on the GPU: a product of matrices, a norm, a fused attention."""

    name: str
    flops: int  # floating-point operations, a multiply-add counts as two
    num_bytes: int  # read and written in this GPU's memory
    precision: str = "bf16"  # of the arithmetic: "fp8", "bf16", "fp32"
    stream: str = COMPUTE


class Collective(NamedTuple):
    """One rank's part in a call that a whole group makes.

    Args:
        kind: one of `KINDS`, as the functions of `gpus.comm` are called.
        num_bytes: for `all_to_all` what goes to each rank of the group, in its order,
            with what stays here in its own place. For all others one entry: the bytes
            of the argument on this rank (the shard for `all_gather`, the whole for
            `reduce_scatter` and `all_reduce`), and none for `barrier`.
        group: global ranks in the group's order; a ring goes round in this order.
        sequence: number of this call among the calls on this group, from 0.
        root: global rank where a `broadcast` starts or a `reduce` ends.
    """

    name: str
    kind: str
    num_bytes: tuple[int, ...]
    group: tuple[int, ...]
    sequence: int
    stream: str = COMM
    root: int | None = None

    def sent_bytes(self, rank: int) -> int:
        """What this rank sends to others, counted as `gpus.meter` counts."""
        others = len(self.group) - 1
        if self.kind == "all_to_all":
            return sum(self.num_bytes) - self.num_bytes[self.group.index(rank)]
        num_bytes = sum(self.num_bytes)
        return {
            "all_reduce": 2 * others * num_bytes // len(self.group),
            "all_gather": others * num_bytes,
            "reduce_scatter": others * num_bytes // len(self.group),
            "broadcast": others * num_bytes if rank == self.root else 0,
            "reduce": 0 if rank == self.root else num_bytes,
            "barrier": 0,
        }[self.kind]


KINDS = (
    "all_reduce all_gather reduce_scatter broadcast reduce all_to_all barrier".split()
)


class Send(NamedTuple):
    """A message to one rank; the stream goes on when the bytes have left."""

    name: str
    peer: int  # global rank that receives
    num_bytes: int
    sequence: int  # number of this message among those from here to the peer
    stream: str = COMM


class Receive(NamedTuple):
    """The other end of a `Send`; the stream goes on when the bytes are here."""

    name: str
    peer: int  # global rank that sends
    num_bytes: int
    sequence: int  # number of this message among those from the peer to here
    stream: str = COMM


class Mark(NamedTuple):
    """An event that happens once the stream has done all that came before it."""

    event: int  # any number that this tape marks once
    stream: str = COMPUTE


class Wait(NamedTuple):
    """The stream's next record starts only when the event has happened."""

    event: int
    stream: str = COMPUTE


Record = Kernel | Collective | Send | Receive | Mark | Wait
_CLASSES: Mapping[str, type] = {
    kind.__name__.lower(): kind
    for kind in (Kernel, Collective, Send, Receive, Mark, Wait)
}


@dataclass(frozen=True)
class Tape:
    """All records of one rank in the order in which the program made them."""

    rank: int
    records: tuple[Record, ...]

    def save(self, path: str | Path) -> None:
        """Write the tape as JSON, one record a line; equal tapes are equal files."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """The text that `save` writes; groups stand once, at the top."""
        groups = sorted({r.group for r in self.records if isinstance(r, Collective)})
        number = {group: place for place, group in enumerate(groups)}
        rows = (_row(record, number) for record in self.records)
        lines = [json.dumps(row, allow_nan=False) for row in rows]
        head = f'"format": "{FORMAT}", "rank": {self.rank}, "groups": '
        body, groups = ",\n".join(lines), json.dumps(groups, allow_nan=False)
        return f'{{{head}{groups}, "records": [\n{body}\n]}}\n'


def load(path: str | Path) -> Tape:
    """Read what `Tape.save` wrote.

    Raises:
        ValueError: the file cannot be read, is cut short or damaged, is no tape, or one
            of another format; names the file and what is wrong.
    """
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_json(text: str) -> Tape:
    """The tape in a text of `Tape.to_json`.

    Raises:
        ValueError: the text is no tape, one of another format, or damaged; names the
            record.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is no tape: cut short or not JSON ({error})") from None
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise ValueError(f"this is no tape: wanted format {FORMAT!r}, got {found!r}")
    rank, groups, rows = (data.get(name) for name in ("rank", "groups", "records"))
    if not (_count(rank) and _rows(groups) and _rows(rows)):
        raise ValueError("this tape is damaged: it needs rank, groups and records")
    groups = [tuple(group) for group in groups]
    records = []
    for place, row in enumerate(rows):
        try:
            records.append(_record(row, groups))
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"this tape is damaged: record {place} is {row!r:.80} ({error})"
            ) from error
    return Tape(rank, tuple(records))


def _count(value: object) -> bool:
    """A whole number from 0; JSON has true and 1.5 besides."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _rows(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) for row in value)


def _row(record: Record, number: Mapping[tuple[int, ...], int]) -> list:
    if isinstance(record, Collective):
        record = record._replace(group=number[record.group])
    return [type(record).__name__.lower(), *record]


def _record(row: list, groups: list[tuple[int, ...]]) -> Record:
    kind, *values = row
    record = _CLASSES[kind](*values)
    if isinstance(record, Collective):
        sizes, group = tuple(record.num_bytes), groups[record.group]
        record = record._replace(num_bytes=sizes, group=group)
    _check_fields(record)
    return record


def _check_fields(record: Record) -> None:
    """A tape of a file may hold anything: texts, counts and tuples of counts."""
    for name, value in record._asdict().items():
        if name in ("name", "kind", "precision", "stream"):
            fits = isinstance(value, str)
        elif name in ("num_bytes", "group") and isinstance(record, Collective):
            fits = all(map(_count, value))
        else:
            fits = _count(value) or (name == "root" and value is None)
        if not fits:
            raise ValueError(f"{name} cannot be {value!r}")
    if isinstance(record, Collective) and record.kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}")
