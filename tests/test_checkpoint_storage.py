"""Spans through torch's planner: cut anew as is wanted, and never unpickled."""

import io
import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kept_runs import KEPT_AT, begin, job_in, load_row, losses, newest, save_row
from torch.distributed import checkpoint as dcp

from tiny_lm import checkpoint_files
from tiny_lm.gpus import mesh

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def test_spans_come_back_on_one_process_without_a_group(tmp_path):
    assert mesh.world().process_group is None
    save_row(0, tmp_path, [0, 10])
    path = checkpoint_files.all_of(tmp_path)[0]
    assert load_row(0, path, [2, 9]) == [float(number) for number in range(2, 9)]


class Payload:
    """A pickle that writes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def _poison(folder: Path, mark: Path) -> None:
    """Pickles under every name that torch's own storage reads."""
    torchs = io.BytesIO()
    torch.save(Payload(mark), torchs)
    for name in (".metadata", "rng.pkl", "optimizer.pt", "__0_0.distcp", "0.distcp"):
        raw = torchs.getvalue() if name.endswith((".distcp", ".pt")) else None
        (folder / name).write_bytes(raw or pickle.dumps(Payload(mark)))


def test_torchs_own_reader_would_run_what_the_payload_says(tmp_path):
    mark = tmp_path / "mark"
    _poison(tmp_path, mark)
    with pytest.raises(AttributeError):  # it ran, and left no metadata
        dcp.FileSystemReader(tmp_path).read_metadata()
    assert mark.exists()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    job = job_in(tmp_path_factory.mktemp("kept"))
    losses(0, job, until=KEPT_AT)
    return job


def test_a_pickle_beside_the_files_is_not_executed(kept, tmp_path):
    mark = tmp_path / "mark"
    _poison(newest(kept), mark)
    begin(replace(kept, start=newest(kept)))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["checkpoint.json", "0.safetensors"])
def test_a_pickle_in_place_of_a_file_is_not_executed(tmp_path, name):
    job, mark = job_in(tmp_path), tmp_path / "mark"
    losses(0, job, until=KEPT_AT)
    path = newest(job) / name
    size = path.stat().st_size
    path.write_bytes(pickle.dumps(Payload(mark)).ljust(size, b"\0"))
    with pytest.raises(Exception, match="cut short|safetensors|header|UTF-8"):
        begin(replace(job, start=newest(job)))
    assert not mark.exists()


WATCHED: list[str] | None = None


def _watch(event: str, args: tuple) -> None:
    if WATCHED is not None and event == "pickle.find_class":
        WATCHED.append(str(args))


sys.addaudithook(_watch)  # stays for good: it does nothing but where it is asked to


@pytest.fixture
def watched() -> Iterator[list[str]]:
    global WATCHED
    WATCHED = []
    yield WATCHED
    WATCHED = None


def test_going_on_unpickles_nothing_at_all(kept, watched):
    pickle.loads(pickle.dumps(Path("x")))
    assert watched  # so the watch works
    watched.clear()
    begin(replace(kept, start=newest(kept)))
    assert watched == []
