"""Tapes: what a record says, bytes as the meter counts them, and the file."""

import json

import pytest

from tiny_lm.gpus import comm, launch, mesh
from tiny_lm.replay import tape
from tiny_lm.replay.tape import (
    KINDS,
    Collective,
    Kernel,
    Mark,
    Receive,
    Send,
    Tape,
    Wait,
)

GROUP = (0, 1, 2, 3)
RECORDS = (
    Kernel("product", 2048, 96, "fp8", "compute"),
    Mark(1, "compute"),
    Wait(1, "comm"),
    Collective("dispatch", "all_to_all", (5, 1, 2, 3), GROUP, 0),
    Collective("gradient", "all_reduce", (64,), GROUP, 1, "grads"),
    Collective("weights", "broadcast", (8,), (0, 2), 0, root=2),
    Send("activations", 1, 32, 0),
    Receive("gradients", 1, 32, 0),
    Wait(7),
)


def call(kind, *num_bytes, root=None):
    return Collective(kind, kind, num_bytes, GROUP, 0, root=root)


def test_a_rank_sends_what_does_not_stay():
    assert call("all_to_all", 5, 1, 2, 3).sent_bytes(0) == 1 + 2 + 3
    assert call("all_to_all", 5, 1, 2, 3).sent_bytes(3) == 5 + 1 + 2
    assert call("all_reduce", 64).sent_bytes(0) == 2 * 3 * 16
    assert call("all_gather", 64).sent_bytes(0) == 3 * 64
    assert call("reduce_scatter", 64).sent_bytes(0) == 3 * 16
    assert call("broadcast", 64, root=2).sent_bytes(2) == 3 * 64
    assert call("broadcast", 64, root=2).sent_bytes(0) == 0
    assert call("reduce", 64, root=2).sent_bytes(2) == 0
    assert call("reduce", 64, root=2).sent_bytes(0) == 64
    assert call("barrier").sent_bytes(0) == 0


def test_streams_have_defaults():
    assert Kernel("k", 1, 1).stream == Mark(0).stream == Wait(0).stream == "compute"
    assert Send("s", 1, 1, 0).stream == Receive("r", 1, 1, 0).stream == "comm"
    assert call("barrier").stream == "comm"
    assert Kernel("k", 1, 1).precision == "bf16"


def metered(rank):
    """Bytes of one call of each kind, by the meter."""
    import torch

    group, x = mesh.world(), torch.zeros(16)
    counted = {}
    calls = {
        "all_reduce": lambda: comm.all_reduce(x, group),
        "all_gather": lambda: comm.all_gather(x, group),
        "reduce_scatter": lambda: comm.reduce_scatter(x, group),
        "broadcast": lambda: comm.broadcast(x, 2, group),
        "all_to_all": lambda: comm.all_to_all(x, [4] * 4, [4] * 4, group),
        "barrier": lambda: comm.barrier(group),
    }
    for kind, run in calls.items():
        with comm.metering() as meter:
            run()
        counted[kind] = meter.num_bytes[kind]
    return counted


def test_sent_bytes_equal_what_the_meter_counts():
    for rank, counted in enumerate(launch.run_ranks(4, metered)):
        for kind, num_bytes in counted.items():
            argument = {"all_to_all": (16,) * 4, "barrier": ()}.get(kind, (64,))
            record = Collective(kind, kind, argument, GROUP, 0, root=2)
            assert record.sent_bytes(rank) == num_bytes, kind
    assert {*counted, "reduce"} == set(KINDS)


def test_a_tape_comes_back_from_its_file(tmp_path):
    saved = Tape(3, RECORDS)
    saved.save(tmp_path / "rank3.json")
    again = tape.load(tmp_path / "rank3.json")
    assert again == saved
    assert [type(record) for record in again.records] == [type(r) for r in RECORDS]
    assert again.to_json() == saved.to_json()


def test_a_group_of_many_ranks_is_written_once():
    group = tuple(range(64))
    calls = [Collective("sum", "all_reduce", (8,), group, n) for n in range(100)]
    text = Tape(0, tuple(calls)).to_json()
    assert text.count("62, 63") == 1
    assert len(text.splitlines()) == 102


def test_what_is_no_tape_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no tape: cut short or not JSON"):
        tape.from_json("hello")
    with pytest.raises(ValueError, match="wanted format 'tiny_lm tape 1', got None"):
        tape.from_json("[]")
    (tmp_path / "x.json").write_text('{"format": "tiny_lm tape 0"}')
    with pytest.raises(ValueError, match="got 'tiny_lm tape 0'"):
        tape.load(tmp_path / "x.json")


DAMAGES = {
    "needs rank, groups and records": {"records": None},
    "needs rank, groups": {"rank": "3"},
    "it needs rank": {"rank": True},
    "needs rank, groups and": {"groups": [3]},
    "record 0 is 'kernel'|needs rank": {"records": ["kernel"]},
    r"record 1 is \['kernel'\]": {"records": [["mark", 1], ["kernel"]]},
    r"record 0 is \['colonel'.*\('colonel'\)": {"records": [["colonel", "mm", 1, 1]]},
    "flops cannot be -1": {"records": [["kernel", "mm", -1, 0]]},
    "flops cannot be '8'": {"records": [["kernel", "mm", "8", 0]]},
    "num_bytes cannot be 1.5": {"records": [["kernel", "mm", 1, 1.5]]},
    "list index out of range": {
        "records": [["collective", "sum", "all_reduce", [8], 7, 0]]
    },
    "kind is one of all_reduce": {"records": [["collective", "sum", "sum", [8], 0, 0]]},
    "event cannot be None": {"records": [["wait", None]]},
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_tape_is_one_line_that_names_file_and_record(message, tmp_path):
    whole = {"format": tape.FORMAT, "rank": 0, "groups": [[0, 1]], "records": []}
    path = tmp_path / "rank0.json"
    path.write_text(json.dumps(whole))
    assert tape.load(path).records == ()
    path.write_text(json.dumps(whole | DAMAGES[message]))
    with pytest.raises(ValueError, match=f"rank0.json: .*({message})") as caught:
        tape.load(path)
    assert "\n" not in str(caught.value)


def test_a_tape_that_was_cut_or_cannot_be_read_is_named(tmp_path):
    text = Tape(3, RECORDS).to_json()
    (tmp_path / "cut.json").write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"cut.json: .*cut short or not JSON"):
        tape.load(tmp_path / "cut.json")
    with pytest.raises(ValueError, match="cannot read .*none.json: No such file"):
        tape.load(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b"\xe9")
    with pytest.raises(ValueError, match="latin.json: .*codec can't decode"):
        tape.load(tmp_path / "latin.json")
