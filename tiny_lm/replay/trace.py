"""A timeline as a Chrome trace, which Perfetto and `chrome://tracing` open.

Chapter: 05_comm/emulated_time
Source: course

A rank becomes a process of the trace, a stream a thread of it. The format counts in
microseconds and Perfetto in whole nanoseconds: start and end are rounded to those, each
on its own, so that neighbours stay neighbours. The exact picoseconds are in `args`.
"""

import json
from pathlib import Path
from typing import Any

from tiny_lm.replay.tape import COMM, COMPUTE
from tiny_lm.replay.timeline import Timeline

Event = dict[str, Any]
FIRST = {COMPUTE: 0, COMM: 1}  # streams that every rank has come first


def chrome_trace(timeline: Timeline) -> dict[str, Any]:
    """The trace as plain dicts and lists: names first, then spans by start."""
    lanes = sorted(
        {(span.rank, span.stream) for span in timeline.spans},
        key=lambda lane: (lane[0], FIRST.get(lane[1], 2), lane[1]),
    )
    threads: dict[tuple[int, str], int] = {}
    for rank, stream in lanes:
        threads[rank, stream] = sum(rank == other for other, _ in threads)
    spans = [_span(span, threads[span.rank, span.stream]) for span in timeline.spans]
    spans.sort(key=lambda event: (event["ts"], event["pid"], event["tid"]))
    return {
        "displayTimeUnit": "ns",
        "otherData": {"emulated": True, "machine": timeline.machine},
        "traceEvents": [*_names(threads), *spans],
    }


def save_trace(timeline: Timeline, path: str | Path) -> None:
    """Write the trace as JSON; equal timelines are equal files."""
    text = json.dumps(chrome_trace(timeline), allow_nan=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def _names(threads: dict[tuple[int, str], int]) -> list[Event]:
    """Metadata: what each process and thread is called, and their order."""
    events = []
    for rank in sorted({rank for rank, _ in threads}):
        name = {"name": f"rank {rank}"}
        events.append(_metadata("process_name", rank, 0, name))
        events.append(_metadata("process_sort_index", rank, 0, {"sort_index": rank}))
    for (rank, stream), tid in threads.items():
        events.append(_metadata("thread_name", rank, tid, {"name": stream}))
        events.append(_metadata("thread_sort_index", rank, tid, {"sort_index": tid}))
    return events


def _metadata(name: str, pid: int, tid: int, args: Event) -> Event:
    return {"ph": "M", "name": name, "pid": pid, "tid": tid, "args": args}


def _span(span, tid: int) -> Event:
    start_ns, end_ns = round(span.start_ps / 1000), round(span.end_ps / 1000)
    return {
        "ph": "X",
        "name": span.name,
        "cat": span.kind,
        "pid": span.rank,
        "tid": tid,
        "ts": start_ns / 1000,
        "dur": (end_ns - start_ns) / 1000,
        "args": {"start_ps": span.start_ps, "end_ps": span.end_ps},
    }
