"""The Chrome trace follows the rules of its format, and says what the timeline says."""

import json
from itertools import groupby, pairwise

import pytest
from test_simulation import random_tapes
from toy_machine import TOY

from tiny_lm.parallel.schedules import dualpipe
from tiny_lm.parallel.unit_pipelines import tapes
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.timeline import Span, Timeline
from tiny_lm.replay.trace import chrome_trace, save_trace


def assert_valid(trace):
    """The rules of the trace event format that Perfetto's importer relies on."""
    events = trace["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X"}
    for event in events:
        assert type(event["pid"]) is type(event["tid"]) is int
        assert isinstance(event["name"], str) and isinstance(event["args"], dict)
    named = {"process_name": set(), "thread_name": set()}
    for event in events:
        if event["ph"] == "M" and event["name"] in named:
            named[event["name"]].add((event["pid"], event["tid"]))
            assert event["args"]["name"]
    spans = [event for event in events if event["ph"] == "X"]
    assert events[-len(spans) :] == spans, "metadata comes first"
    for span in spans:
        assert span["ts"] >= 0 and span["dur"] >= 0
        assert (span["pid"], span["tid"]) in named["thread_name"]
        assert span["pid"] in {pid for pid, _ in named["process_name"]}
    assert spans == sorted(spans, key=lambda e: e["ts"])
    lane = lambda event: (event["pid"], event["tid"])  # noqa: E731
    for _, in_lane in groupby(sorted(spans, key=lane), key=lane):
        for one, two in pairwise(sorted(in_lane, key=lambda e: (e["ts"], e["dur"]))):
            assert round(1000 * (one["ts"] + one["dur"])) <= round(1000 * two["ts"])


def test_spans_become_events_in_microseconds():
    spans = (
        Span(3, "aside", "x", 0, 999, "wait"),
        Span(3, "comm", "dispatch", 1_000_400, 2_000_600, "comm"),
        Span(3, "compute", "a", 0, 1_500_000, "kernel"),
    )
    trace = chrome_trace(Timeline("toy", spans, 3_000_000))
    assert_valid(trace)
    assert trace["otherData"] == {"emulated": True, "machine": "toy"}
    names = {
        (event["name"], event["tid"]): event["args"]
        for event in trace["traceEvents"]
        if event["ph"] == "M"
    }
    assert names["process_name", 0] == {"name": "rank 3"}
    assert [names["thread_name", tid]["name"] for tid in range(3)] == [
        "compute",
        "comm",
        "aside",
    ]
    assert names["thread_sort_index", 1] == {"sort_index": 1}
    assert names["process_sort_index", 0] == {"sort_index": 3}
    assert trace["traceEvents"][-1] == {
        "ph": "X",
        "name": "dispatch",
        "cat": "comm",
        "pid": 3,
        "tid": 1,
        "ts": 1.0,
        "dur": 1.001,
        "args": {"start_ps": 1_000_400, "end_ps": 2_000_600},
    }


@pytest.mark.parametrize("made", [random_tapes(3), tapes(dualpipe, 8, 20)])
def test_replayed_steps_are_valid_traces(made, tmp_path):
    timeline = replay(made, TOY)
    save_trace(timeline, tmp_path / "step.json")
    trace = json.loads((tmp_path / "step.json").read_text())
    assert_valid(trace)
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(spans) == len(timeline.spans)
    save_trace(timeline, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "step.json").read_text()


def test_rounding_never_makes_neighbours_overlap():
    ends = range(0, 40_000, 333)
    spans = [Span(0, "compute", "k", a, b, "kernel") for a, b in pairwise(ends)]
    assert_valid(chrome_trace(Timeline("toy", tuple(spans), ends[-1])))
