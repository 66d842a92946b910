"""A wrong piece is found by its name, whatever it does to the process it runs in."""

import json

import pytest
from piece_styles import as_written, put, sources

from tiny_lm.course.assembly import kept, verify
from tiny_lm.course.assembly.child import WIDTH
from tiny_lm.course.assembly.kept import gather
from tiny_lm.course.assembly.verify import Limits

SOON = Limits(work_s=1, wait_s=4.0)
SCALE = "def update_bias(bias, load, rate):\n"
WRONG = {
    "baseline.attention": (
        "def attention(q, k, v, num_heads:\n",
        "SyntaxError in line 1",
    ),
    "baseline.dense_cost": ("def cost(*sizes):\n    return 1, 1.0\n", "no dense_cost"),
    "moe.gate": ("import nowhere\n", "ModuleNotFoundError: No module named 'nowhere'"),
    "moe.update_bias": (
        SCALE + "    return bias + rate * (load.float().mean() - load)\n",
        "does not hold: ",
    ),
    "moe.score_and_choose": (
        "def score_and_choose(x):\n    return x\n",
        "TypeError: score_and_choose() takes 1 positional argument but 3 were given",
    ),
    "mla.compress": (
        "def compress(*given):\n    while True:\n        pass\n",
        "does not return: still at work after 1 seconds of it",
    ),
    "mla.expand": (
        "import time\ndef expand(*given):\n    time.sleep(1000)\n",
        "does not return: nothing came in 4 seconds",
    ),
    "mla.remember": (
        "import os, signal\n"
        "def remember(*given):\n    os.kill(os.getpid(), signal.SIGKILL)\n",
        "ends the process that runs it (SIGKILL)",
    ),
    "fp8.linear": (
        "import os\nos._exit(0)\n",
        "ends the process that runs it (exit code 0)",
    ),
    "fp8.round_to": ("raise SystemExit\n", "does not run: SystemExit"),
    "moe.run_experts": (
        "def run_experts(*given):\n    raise NotImplementedError('Task 2.4: run')\n",
        "the stub still stands in place of an answer",
    ),
    "moe.gates": ("", "no piece 'moe.gates'; there are: moe.gate, "),
    "mixture.gate": ("", "no lab has pieces named mixture.…"),
}
RIGHT = ("baseline.bits_per_byte", "moe.limit_groups", "mla.decode", "comm.byte_table")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A folder with all of them, beside right ones."""
    folder = tmp_path_factory.mktemp("pieces")
    texts = {name: as_written(name) for name in RIGHT}
    put(folder, texts | {name: text for name, (text, _) in WRONG.items()})
    (folder / "moe" / "bytes.py").write_bytes(b"\xff")
    return folder, gather(folder, SOON)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_piece_is_named_with_what_is_wrong(name, found):
    why = found[1].wrong[name]
    assert WRONG[name][1] in why
    assert len(why.splitlines()) == 1
    assert len(why) <= WIDTH


def test_a_known_mistake_is_told_in_its_own_words(found):
    assert "sign" in found[1].wrong["moe.update_bias"]


def test_a_file_that_is_no_text_is_named(found):
    assert "bytes.py is not UTF-8 text" in found[1].wrong["moe.bytes"]


def test_right_ones_beside_them_are_taken(found):
    assert sorted(found[1].sources) == sorted(RIGHT)
    assert len(found[1].wrong) == len(WRONG) + 1


def test_what_passed_is_remembered_until_its_file_changes(found, monkeypatch):
    folder, first = found
    checked = []
    monkeypatch.setattr(
        verify, "_check_all", lambda todo, limits: checked.append(set(todo)) or {}
    )
    gather(folder)
    assert not checked[0] & set(RIGHT)
    file = folder / "mla" / "decode.py"
    file.write_text(file.read_text() + "\n")
    gather(folder)
    assert checked[1] - checked[0] == {"mla.decode"}
    monkeypatch.setattr(verify, "version", lambda: "another")
    gather(folder)
    assert checked[2] >= set(RIGHT)


@pytest.mark.parametrize("text", ["", "[1, {}]", '{"a": 1}', "nonsense"])
def test_a_spoiled_memory_is_no_memory(text, tmp_path):
    (tmp_path / "cache").write_text(text)
    assert verify._read(tmp_path / "cache") == set()


def test_a_memory_that_cannot_be_written_is_done_without(tmp_path):
    verify._write(tmp_path / "absent" / "cache", {"a"})
    verify._write(tmp_path / "cache", {"b", "a"})
    assert json.loads((tmp_path / "cache").read_text()) == ["a", "b"]


def test_pieces_that_no_file_could_take_are_found_as_well(monkeypatch, tmp_path):
    monkeypatch.setenv("TINY_LM_PIECES", str(tmp_path / "none"))
    monkeypatch.setattr(kept.pieces, "_memory", {RIGHT[0]: sources()[RIGHT[0]]})
    assert gather(check=False).yours == [RIGHT[0]]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder of pieces: .*absent"):
        gather(tmp_path / "absent")
