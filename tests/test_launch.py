"""Ranks: what they are handed, what they give back, and every way they can fail."""

import linecache
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cloudpickle import register_pickle_by_value

from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import run_ranks

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest
ROOT = Path(__file__).resolve().parents[1]

FOREVER = """
import os, time
from tiny_lm.gpus.launch import run_ranks

def loop(rank):
    print(os.getpid(), flush=True)
    while True:
        time.sleep(0.01)

run_ranks(3, loop)
"""

UNGUARDED = """
import sys
from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import run_ranks
import torch

class Box:
    def __init__(self, value):
        self.value = value

def work(rank, factor):
    print(f"rank {rank} at work")
    total = comm.all_reduce(torch.tensor([rank]), mesh.world())
    return Box(int(total) * factor)

boxes = run_ranks(2, work, 10, start_method=sys.argv[1])
assert all(type(box) is Box for box in boxes)
print([box.value for box in boxes])
"""


def _write_pid_then(folder: Path, rank: int) -> None:
    (folder / f"{rank}.pid").write_text(str(os.getpid()))
    comm.barrier(mesh.world())


def _environ(**more: object) -> dict[str, str]:
    """For programs of our own: from any folder, and quick, without shape checks."""
    return {**os.environ, "PYTHONPATH": str(ROOT)} | {
        k: str(v) for k, v in more.items()
    }


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _all_gone(pids: list[int], within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while any(_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _pids(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in folder.glob("*.pid")]


def test_results_come_back_in_rank_order():
    offset = torch.tensor([100.0])

    class Pair:
        def __init__(self, rank, value):
            self.rank, self.value = rank, value

    def work(rank, scale):
        total = comm.all_reduce(torch.tensor([float(rank)]), mesh.world())
        return Pair(rank, offset + scale * total)

    pairs = run_ranks(4, work, 2.0)
    assert [pair.rank for pair in pairs] == [0, 1, 2, 3]
    assert all(isinstance(pair, Pair) for pair in pairs)
    assert all(pair.value.item() == 112.0 for pair in pairs)


def test_a_rank_has_one_thread_and_the_callers_folder_and_settings(
    tmp_path, monkeypatch
):
    run_ranks(1, lambda rank: None)  # the server stands before anything is changed
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SET_LATE", "yes")
    monkeypatch.setenv("HOME", "elsewhere")

    def look(rank):
        names = ("SET_LATE", "HOME")
        threads = torch.get_num_threads()
        return Path.cwd(), [os.environ[name] for name in names], threads

    assert run_ranks(1, look) == [(tmp_path, ["yes", "elsewhere"], 1)]


def test_one_server_imports_torch_for_all_ranks_of_all_calls():
    parents = run_ranks(2, lambda rank: os.getppid())
    parents += run_ranks(3, lambda rank: os.getppid())
    assert len(set(parents)) == 1
    assert parents[0] != os.getpid()


def test_large_results_come_back_whole():
    def work(rank):
        return torch.full((3_000_000,), rank, dtype=torch.float64)

    assert [int(x.sum()) for x in run_ranks(2, work)] == [0, 3_000_000]


def test_shapes_are_checked_inside_ranks():
    def work(rank):
        return comm.all_to_all_counts(torch.zeros(1), mesh.solo())  # wants "ranks n"

    with pytest.raises(RuntimeError, match="(?s)rank 0 raised.*TypeCheckError"):
        run_ranks(1, work)


def test_a_rank_that_raises_is_named_with_its_own_line_and_the_others_end(tmp_path):
    cell = "def broken(rank):\n    prepare(rank)\n    if rank == 1:\n        1 / 0\n"
    cell += "    wait(rank)\n"
    linecache.cache["<cell 7>"] = (len(cell), None, cell.splitlines(True), "<cell 7>")
    scope = {
        "prepare": lambda rank: _write_pid_then(tmp_path, rank),
        "wait": lambda rank: time.sleep(60),
    }
    exec(compile(cell, "<cell 7>", "exec"), scope)
    with pytest.raises(RuntimeError) as caught:
        run_ranks(3, scope["broken"])
    del linecache.cache["<cell 7>"]
    message = str(caught.value)
    assert message.startswith("rank 1 raised")
    assert 'File "<cell 7>", line 4, in broken\n    1 / 0' in message
    assert "ZeroDivisionError" in message
    assert "launch.py" not in message
    assert len(_pids(tmp_path)) == 3 and _all_gone(_pids(tmp_path))


def test_a_killed_rank_is_named_at_once_although_others_wait_for_it(tmp_path):
    def work(rank):
        _write_pid_then(tmp_path, rank)
        if rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        comm.all_reduce(torch.ones(10), mesh.world())

    started = time.monotonic()
    with pytest.raises(RuntimeError, match="rank 2 was killed by SIGKILL"):
        run_ranks(4, work)
    assert time.monotonic() - started < 10
    assert len(_pids(tmp_path)) == 4 and _all_gone(_pids(tmp_path))


def test_a_rank_that_exits_is_named_with_its_code():
    with pytest.raises(RuntimeError, match="rank 1 ended with exit code 7"):
        run_ranks(2, lambda rank: os._exit(7) if rank else time.sleep(60))


def test_a_result_that_cannot_travel_is_an_error_of_its_rank():
    with pytest.raises(RuntimeError, match="(?s)rank 0 raised.*pickle"):
        run_ranks(1, lambda rank: (i for i in range(3)))


def _spin() -> None:
    while True:
        pass


def test_an_endless_loop_ends_in_time_and_its_line_is_named(tmp_path):
    def work(rank):
        _write_pid_then(tmp_path, rank)
        if rank == 1:
            _spin()

    with pytest.raises(RuntimeError, match="not every rank was done in time") as caught:
        run_ranks(2, work, timeout_s=3.0)
    message = str(caught.value)
    assert "rank 0: done" in message
    assert "test_launch.py" in message and "in _spin" in message
    assert len(_pids(tmp_path)) == 2 and _all_gone(_pids(tmp_path))


def test_ranks_that_wait_for_one_that_has_left_fail_instead_of_hanging():
    def work(rank):
        if rank:
            comm.all_reduce(torch.ones(3), mesh.world())

    with pytest.raises(RuntimeError, match="(?s)raised.*Already done by then: rank 0"):
        run_ranks(3, work, timeout_s=60.0, checked=False)


def test_after_a_failure_the_next_run_works():
    with pytest.raises(RuntimeError):
        run_ranks(2, lambda rank: 1 / 0)
    assert run_ranks(2, lambda rank: rank) == [0, 1]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ranks_and_files_go_with_the_program_that_started_them(short_path, how):
    with subprocess.Popen(
        [sys.executable, "-c", FOREVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environ(TMPDIR=short_path),
    ) as program:
        pids = [int(program.stdout.readline()) for _ in range(3)]
        assert any(short_path.glob("pymp-*"))
        program.send_signal(how)
        try:
            errors = program.communicate(timeout=30)[1]
        finally:
            program.kill()  # or the `with` would wait as long as its ranks loop
    assert ("KeyboardInterrupt" in errors) == (how == signal.SIGINT)
    assert _all_gone(pids)
    left = [path.name for path in short_path.iterdir()]
    assert all(name.startswith("torchinductor") for name in left)  # torch's own cache


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_script_needs_no_guard_and_runs_in_silence(tmp_path, start_method):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, "-W", "error", script, start_method],
        capture_output=True,
        text=True,
        timeout=120,
        env=_environ(PYTHONUNBUFFERED=1),
    )
    assert (done.returncode, done.stderr) == (0, "")
    *at_work, result = done.stdout.splitlines()
    assert sorted(at_work) == ["rank 0 at work", "rank 1 at work"]
    assert result == "[10, 10]"


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="world_size must be at least 1, got 0"):
        run_ranks(0, print)
    with pytest.raises(ValueError, match="timeout_s must be positive, got -1"):
        run_ranks(1, print, timeout_s=-1.0)
