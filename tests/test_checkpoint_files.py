"""Checkpoints on disk: whole or not there, whatever is killed; damage is named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_lm import checkpoint_files as files
from tiny_lm.checkpoint_files import Damaged

ROOT = Path(__file__).resolve().parents[1]


def _write(run: Path, step: int) -> Path:
    """A checkpoint of two small files."""
    draft = files.new_draft(run)
    written = {}
    for name in ("0.safetensors", "1.safetensors"):
        raw = f"{name} of step {step}".encode() * 100
        files.write_through(draft / name, raw)
        written[name] = {"bytes": len(raw), "checksum": files.checksum(raw)}
    return files.publish(draft, {"step": step, "files": written})


def _steps(run: Path) -> list[int]:
    return [files.step_of(path) for path in files.all_of(run)]


def test_a_checkpoint_is_named_by_its_step_and_the_newest_is_last(tmp_path):
    for step in (7, 1_000_000, 50):
        _write(tmp_path, step)
    (tmp_path / files.FOLDER / "step-000").mkdir()
    (tmp_path / files.FOLDER / "step-last").mkdir()
    assert _steps(tmp_path) == [7, 50, 1_000_000]
    assert files.all_of(tmp_path)[0].name == "step-000007"
    assert files.all_of(tmp_path / "absent") == []


def test_the_newest_two_stay_and_dropping_leaves_nothing(tmp_path):
    for step in (1, 2, 3):
        _write(tmp_path, step)
    files.prune(tmp_path)
    assert _steps(tmp_path) == [2, 3]
    left = files.new_draft(tmp_path)
    assert left.name.startswith(".")
    files.drop(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_read_back(tmp_path):
    path = _write(tmp_path, 5)
    about = files.read_about(path)
    assert about["step"] == 5 and "checksum" not in about
    files.check_files(path, about)


# Ends a process at its n-th call that changes a folder, before the call is made.
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import test_checkpoint_files as tests

run, limit = Path(sys.argv[2]), int(sys.argv[3])
count = 0
def watch(event, args):
    global count
    writes = event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT
    if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
        count += 1
        if count == limit:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
tests._write(run, 6)
tests.files.prune(run)
"""


def _killed(run: Path, number: int) -> int:
    command = [sys.executable, "-c", KILLED, ROOT / "tests", run, str(number)]
    return subprocess.run(command, timeout=60).returncode


def test_a_kill_at_any_moment_leaves_the_last_good_one(tmp_path):
    before = tmp_path / "before"
    _write(before, 2)
    _write(before, 4)
    newest = []
    for number in range(1, 40):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(before, run)
        code = _killed(run, number)
        for path in files.all_of(run):
            files.check_files(path, files.read_about(path))
        newest.append(_steps(run)[-1])
        _write(run, 8)  # the next one clears away what was left
        files.prune(run)
        assert not list((run / files.FOLDER).glob(".*"))
        if code == 0:
            break
    assert code == 0 and newest == sorted(newest) and set(newest) == {4, 6}
    assert newest.count(4) >= 5 and newest.count(6) >= 5  # kills before and after


def test_a_checkpoint_shows_only_once_it_is_whole_and_on_the_disk(
    tmp_path, monkeypatch
):
    """The order: files, then what is in them, then the folder's name."""
    done = []
    fsync, rename = files.os.fsync, Path.rename
    monkeypatch.setattr(files.os, "fsync", lambda f: done.append("sync") or fsync(f))
    monkeypatch.setattr(
        Path, "rename", lambda a, b: done.append(f"-> {b.name}") or rename(a, b)
    )
    _write(tmp_path, 3)
    # Two files, checkpoint.json, the draft's names; the new name, and it on the disk.
    assert done == [*["sync"] * 4, "-> step-000003", "sync"]


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _say(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES = [
    (files.ABOUT, Path.unlink, "is not a checkpoint: it has no checkpoint.json"),
    (files.ABOUT, _cut, "checkpoint.json is cut short or no JSON"),
    (files.ABOUT, lambda p: _say(p, step=9), "checkpoint.json is damaged: its checks"),
    ("1.safetensors", Path.unlink, "cannot read .*1.safetensors: No such file"),
    ("1.safetensors", _cut, "1.safetensors is damaged: it has 2,399 bytes, and 2,400"),
    ("0.safetensors", _flip, "0.safetensors is damaged: its checksum does not fit"),
]


@pytest.mark.parametrize(("name", "damage", "said"), DAMAGES)
def test_a_damaged_checkpoint_is_one_line_that_names_the_file(
    tmp_path, name, damage, said
):
    path = _write(tmp_path, 11)
    damage(path / name)
    with pytest.raises(Damaged, match=said) as caught:
        files.check_files(path, files.read_about(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "torch"}, "was written by another program than tiny_lm"),
        (
            {"version": 0},
            "of another version of tiny_lm: number 0, and this",
        ),
    ],
)
def test_a_foreign_or_older_checkpoint_is_not_called_damaged(tmp_path, changes, said):
    path = _write(tmp_path, 1)
    _say(path / files.ABOUT, **changes)
    with pytest.raises(ValueError, match=said) as caught:
        files.read_about(path)
    assert not isinstance(caught.value, Damaged)
