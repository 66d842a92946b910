"""Ranks that stay warm: what a call finds, what it prints, and every way it can end."""

import gc
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from cloudpickle import register_pickle_by_value

from tiny_lm.gpus import comm, mesh, start
from tiny_lm.gpus.launch import Cluster
from tiny_lm.gpus.mesh import Mesh

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest
ROOT = Path(__file__).resolve().parents[1]

INTERRUPTED = """
import os, time
from tiny_lm.gpus.launch import Cluster
from tiny_lm.journal import Bar

def loop(rank):
    Bar(total=1, disable=True)  # a bar of tqdm's would leave a semaphore behind
    print(os.getpid(), flush=True)
    time.sleep(60)

gpus = Cluster(2, prefix=False)
try:
    gpus.run(loop)
except KeyboardInterrupt:
    print("stopped", gpus.run(lambda rank: rank), flush=True)
print(*gpus.run(lambda rank: os.getpid()), flush=True)
"""


@pytest.fixture(scope="module")
def gpus():
    with Cluster(3) as cluster:
        yield cluster


def _pid(rank: int) -> int:
    return os.getpid()


def _gone(pids: list[int], within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while any(_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _sum(rank: int) -> float:
    return comm.all_reduce(torch.tensor(float(rank)), mesh.world()).item()


def test_ranks_stay_between_calls_and_a_call_costs_milliseconds(gpus):
    pids = gpus.run(_pid)
    assert len(set(pids)) == gpus.world_size == 3
    times_s = []
    for _ in range(10):
        started = time.perf_counter()
        assert gpus.run(_sum) == [3.0] * 3
        times_s.append(time.perf_counter() - started)
    assert gpus.run(_pid) == pids
    assert min(times_s) < 0.05


def test_a_call_takes_arguments_and_gives_classes_back(gpus):
    class Pair:
        def __init__(self, rank, value):
            self.rank, self.value = rank, value

    pairs = gpus.run(Pair, "x")
    assert [(pair.rank, pair.value) for pair in pairs] == [(r, "x") for r in range(3)]
    assert all(type(pair) is Pair for pair in pairs)


def test_a_call_finds_the_same_rank_whatever_ran_before(gpus):
    def look(rank):
        threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
        return threads, dtype, torch.is_grad_enabled(), torch.rand(2), torch.zeros(1)

    def change(rank):
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_grad_enabled(False)

    before = gpus.run(look)
    gpus.run(change)
    for old, new in zip(before, gpus.run(look), strict=True):
        assert new[:3] == old[:3] == (1, torch.float32, True)
        assert torch.equal(new[3], old[3]) and new[4].device.type == "cpu"


def test_a_call_sees_the_callers_folder_and_settings(gpus, tmp_path, monkeypatch):
    gpus.run(_pid)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SET_LATE", "yes")
    seen = gpus.run(lambda rank: (Path.cwd(), os.environ["SET_LATE"]))
    assert seen == [(tmp_path, "yes")] * 3


def test_a_clock_that_is_set_ends_no_call(gpus, monkeypatch):
    hours = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: 3600.0 * next(hours))
    assert gpus.run(_sum, timeout_s=30.0) == [3.0] * 3
    assert time.time() < 3600 * 10**5


def test_surroundings_in_which_ranks_cannot_meet_are_refused(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 90)
    with pytest.raises(ValueError, match="too long a path for sockets.*set TMPDIR to"):
        Cluster(2)

    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(ValueError, match="no folder for temporary files: No usable"):
        Cluster(2)


@pytest.mark.parametrize("name", ["_INHERITED", "_PID"])
def test_a_folder_that_was_handed_down_outlives_the_ranks(name, monkeypatch):
    folder, around = start.meeting_place()
    assert Path(folder).parent == Path(around)
    os.rmdir(folder)
    value = {"_INHERITED": around, "_PID": os.getppid()}[name]
    monkeypatch.setattr(start, name, value)
    folder, around = start.meeting_place()
    assert around is None
    os.rmdir(folder)


def test_groups_and_messages_of_a_call_end_with_it(gpus):
    def leave_a_message(rank):
        if rank == 0:
            dist.isend(torch.tensor([1.0]), 1)

    def exchange(rank):
        x = torch.tensor([2.0])
        if rank == 0:
            dist.send(x, 1)
        if rank == 1:
            x.zero_()
            dist.recv(x, 0)
        return x.item()

    def in_a_mesh(rank):
        group = Mesh({"dp": 1, "ep": 3})["ep"]
        pair = dist.new_group([0, 1])
        if rank < 2:
            comm.barrier(mesh.Group(rank, 2, pair))
        return _sum(rank), comm.all_gather(torch.ones(1), group).sum().item()

    gpus.run(leave_a_message)
    assert gpus.run(exchange) == [2.0] * 3  # not the 1 that nobody took
    for _ in range(3):
        assert gpus.run(in_a_mesh) == [(3.0, 3.0)] * 3
    gpus.run(lambda rank: dist.destroy_process_group())
    assert gpus.run(_sum) == [3.0] * 3


def _kill(rank):
    print("last words")
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def _exhaust(rank):
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
        torch.ones(1 << 32)
    time.sleep(60)


def _exhaust_python(rank):
    raise MemoryError


def _spin(rank):
    while rank == 1:
        pass
    comm.barrier(mesh.world())


FAILURES = {
    "raised": (lambda rank: 1 / (rank - 1), "(?s)^rank 1 raised.*ZeroDivisionError"),
    "killed": (_kill, r"^rank 1 was killed by SIGKILL \(often .* memory ran out\)"),
    "memory": (_exhaust, "^rank 1 raised RuntimeError: it ran out of memory"),
    "python": (_exhaust_python, "^rank 0 raised MemoryError: it ran out of memory"),
    "left": (
        lambda rank: sys.exit(3),
        r"^rank 0 raised SystemExit: it called sys.exit",
    ),
    "untold": (
        lambda rank: (i for i in ()),
        "^rank 0 raised TypeError: it returned a generator, which cannot travel",
    ),
    "endless": (_spin, r"(?s)in time.*rank 0: waits in barrier.*rank 1: .*in _spin"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_names_rank_and_cause_and_the_next_run_works(gpus, failure, capsys):
    fn, message = FAILURES[failure]
    pids, folder = gpus.run(_pid), Path(gpus._team.folder)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=message):
        gpus.run(fn, timeout_s=2.0 if failure == "endless" else 60.0)
    assert time.monotonic() - started < 10
    assert _gone(pids) and not folder.exists()
    assert gpus.run(_sum) == [3.0] * 3
    if failure == "killed":
        assert "rank 1: last words\n" in capsys.readouterr().out


def test_a_rank_that_dies_between_calls_is_replaced_in_silence(gpus):
    pids = gpus.run(_pid)
    os.kill(pids[0], signal.SIGKILL)
    assert _gone(pids[:1])
    assert gpus.run(_sum) == [3.0] * 3
    assert not set(gpus.run(_pid)) & set(pids)


def test_ranks_see_a_module_that_was_edited(gpus, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "edited_by_a_learner.py"
    for answer in (1, 2):
        file.write_text(f"def answer(rank):\n    return {answer}\n\n" + "#" * answer)
        sys.modules.pop("edited_by_a_learner", None)
        import edited_by_a_learner

        assert gpus.run(edited_by_a_learner.answer) == [answer] * 3
    del sys.modules["edited_by_a_learner"]


@pytest.mark.parametrize("how", ["close", "with", "garbage"])
def test_ranks_and_files_go_with_their_cluster(how):
    cluster = Cluster(2)
    pids, folder = cluster.run(_pid), Path(cluster._team.folder)
    if how == "close":
        cluster.close()
        cluster.close()
    elif how == "with":
        with cluster:
            pass
    if how != "garbage":
        with pytest.raises(RuntimeError, match="this cluster is closed: make a new"):
            cluster.run(_pid)
    del cluster
    gc.collect()
    assert _gone(pids) and not folder.exists()


def test_after_ctrl_c_the_next_run_works_and_nothing_is_left(short_path):
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(short_path)},
    ) as program:
        pids = [int(program.stdout.readline()) for _ in range(2)]
        program.send_signal(signal.SIGINT)
        try:
            out, errors = program.communicate(timeout=60)
        finally:
            program.kill()  # or the `with` would wait as long as its ranks sleep
    stopped, later = out.splitlines()
    assert (program.returncode, stopped, errors) == (0, "stopped [0, 1]", "")
    assert _gone(pids + [int(pid) for pid in later.split()])
    left = [path.name for path in short_path.iterdir()]
    assert all(name.startswith("torchinductor") for name in left)  # torch's own cache


def test_spawned_ranks_do_all_that_forked_ones_do(capsys):
    with Cluster(2, start_method="spawn") as cluster:
        assert cluster.run(_sum) == [1.0, 1.0]
        pids = cluster.run(_pid)
        cluster.run(lambda rank: print("here"))
        with pytest.raises(RuntimeError, match="Only rank 0 makes call 1, barrier"):
            cluster.run(lambda rank: rank or comm.barrier(mesh.world()))
        assert _gone(pids)
        assert cluster.run(_sum) == [1.0, 1.0]
    assert capsys.readouterr().out == "rank 0: here\nrank 1: here\n"


def test_what_cannot_travel_to_ranks_is_refused(gpus):
    with pytest.raises(TypeError, match="_pid or one of its arguments cannot travel"):
        gpus.run(_pid, (i for i in range(3)))
    with pytest.raises(TypeError, match="a Cluster stays with the process that made"):
        gpus.run(lambda rank: gpus.world_size)


def test_impossible_arguments_are_refused(gpus):
    with pytest.raises(ValueError, match="world_size must be at least 1, got 0"):
        Cluster(0)
    with pytest.raises(ValueError, match="timeout_s must be positive, got 0"):
        gpus.run(_pid, timeout_s=0.0)
