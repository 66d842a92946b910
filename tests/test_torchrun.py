"""Ranks that torchrun starts: what they are told, and whether to believe it."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from tiny_lm.gpus import torchrun
from tiny_lm.gpus.torchrun import Placement, apart_from_dead, placement

ROOT = Path(__file__).resolve().parents[1]
WHOLE = {
    "TORCHELASTIC_RUN_ID": "test",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}

SCRIPT = """
import torch
from tiny_lm.gpus import comm, mesh, torchrun

def work(rank, add):
    group = mesh.world()
    assert (group.rank, group.size) == (rank, 2)
    return rank, int(comm.all_reduce(torch.tensor([rank + add]), group))

rank, total = torchrun.run_rank(work, 5)
assert not torch.distributed.is_initialized()
print(f"rank {rank} has {total}\\n", end="")
"""


def _set(monkeypatch, **changes: str | None) -> None:
    for name, value in (WHOLE | changes).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


def test_torchrun_runs_the_same_function_and_says_what_it_took(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        + ["--nproc-per-node", "2", script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n"))[-2:] == ["rank 0 has 11", "rank 1 has 11"]
    said = "2 rank(s) on CPUs, joined by gloo: torch sees no GPU here"
    assert done.stderr.splitlines().count(said) == 1


def test_a_rank_is_placed_by_what_torchrun_says(monkeypatch):
    _set(monkeypatch)
    assert placement() == Placement(3, 4, 1, 2)


def test_variables_of_another_launcher_are_nobodys_business(monkeypatch):
    _set(monkeypatch, TORCHELASTIC_RUN_ID=None)
    assert placement() is None
    with pytest.raises(RuntimeError, match="start with `torchrun"):
        torchrun.join()


@pytest.mark.parametrize(
    "changes",
    [
        {"RANK": None},
        {"RANK": "4"},
        {"RANK": "-1"},
        {"WORLD_SIZE": "many"},
        {"LOCAL_RANK": "2"},
        {"LOCAL_WORLD_SIZE": "5"},
        {"MASTER_ADDR": ""},
        {"MASTER_PORT": None},
    ],
    ids=str,
)
def test_variables_that_do_not_fit_together_are_refused_by_name(changes, monkeypatch):
    _set(monkeypatch, **changes)
    name, value = next(iter(changes.items()))
    with pytest.raises(ValueError, match=f"{name}={value or 'unset'}.* does not fit"):
        placement()


def test_a_rank_without_a_gpu_of_its_own_says_so(monkeypatch):
    _set(monkeypatch, LOCAL_RANK="64", LOCAL_WORLD_SIZE="65", WORLD_SIZE="65")
    with pytest.raises(ValueError, match="local rank 64 has no GPU of its own"):
        torchrun.join("cuda")


def _meet(store: dist.Store, size: int) -> list[dist.Store]:
    patience = timedelta(seconds=20)
    with ThreadPoolExecutor(size) as ranks:
        meet = ranks.map(
            lambda r: apart_from_dead(store, r, size, patience), range(size)
        )
        return list(meet)


def test_ranks_meet_apart_from_those_that_died():
    store, size = dist.HashStore(), 3
    # Of an earlier attempt: one that died before it met the others, and one after.
    dist.PrefixStore("tiny_lm", store).set("word of 1", "a dead rank's word")
    for attempt in range(2):
        parts = _meet(store, size)
        assert not any(part.check(["address of 0"]) for part in parts)
        parts[0].set("address of 0", f"alive in attempt {attempt}")
        assert [p.get("address of 0") for p in parts[1:]] == [
            f"alive in attempt {attempt}".encode()
        ] * (size - 1)


def test_a_rank_that_does_not_come_is_told_by_its_number():
    with pytest.raises(RuntimeError, match=r"ranks \[1\] did not come to meet"):
        apart_from_dead(dist.HashStore(), 0, 2, timedelta(seconds=0.05))


def test_what_was_taken_is_said_in_words(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA H100")
    device = torchrun.torch.device("cuda", 0)
    said = torchrun.taken(device, 8)
    assert said == "8 rank(s), each on its own NVIDIA H100, joined by NCCL"
