"""A cluster in a notebook's kernel: what cells show, and what a restart leaves."""

import gc
import os
import threading
import time
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

# jupyter_client leaves the event loop that it made open.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

SET_UP = """
import os, torch
from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import Cluster

class Pair:
    def __init__(self, rank, scale):
        self.value = rank * scale

gpus = Cluster(3)
"""

# What each cell does wrong, a part of the sentence it draws, and the learner's line.
MISTAKES = {
    "another order": (
        """
def work(rank):
    x = torch.ones(2)
    if rank == 1:
        comm.barrier(mesh.world())
    return comm.all_reduce(x, mesh.world())
""",
        "Call 1 is all_reduce on ranks 0 and 2, barrier on rank 1",
        "line 4: comm.barrier(mesh.world())",
    ),
    "another size": (
        """
def work(rank):
    return comm.all_reduce(torch.ones(4 + (rank == 2)), mesh.world())
""",
        "Call 1, all_reduce, has shape [4] on ranks 0 and 1, [5] on rank 2",
        "line 2: return comm.all_reduce(",
    ),
    "another shape": (
        """
def work(rank):
    x = torch.ones(4)
    if rank == 1:
        x = x.view(2, 2)
    return comm.all_reduce(x, mesh.world())
""",
        "Call 1, all_reduce, has shape [4] on ranks 0 and 2, [2, 2] on rank 1",
        "line 5: return comm.all_reduce(x, mesh.world())",
    ),
    "splits that disagree": (
        """
def work(rank):
    sends = [1, 1, 2] if rank == 1 else [1, 1, 1]
    comm.all_to_all(torch.ones(sum(sends)), sends, [1, 1, 1], mesh.world())
""",
        "rank 1 sends 2 rows to rank 2, which expects 1",
        "line 3: comm.all_to_all(",
    ),
    "an early return": (
        """
def work(rank):
    if rank == 0:
        return
    comm.all_reduce(torch.ones(4), mesh.world())
""",
        "Ranks 1 and 2 wait in all_reduce, call 1: rank 0 returned without it",
        "line 4: comm.all_reduce(torch.ones(4), mesh.world())",
    ),
    "one rank only": (
        """
def work(rank):
    if rank == 0:
        comm.barrier(mesh.world())
""",
        "Only rank 0 makes call 1, barrier: ranks 1 and 2 returned without",
        "line 3: comm.barrier(mesh.world())",
    ),
}


class Notebook:
    """Runs cells one by one, as a learner does."""

    def __init__(self, manager, client) -> None:
        self.manager, self.client = manager, client

    def run(self, cell: str) -> tuple[str, str]:
        """What the cell printed and its value; and its error, if there was one."""
        text, error = [], []

        def look(message):
            content = message["content"]
            if message["msg_type"] == "stream":
                text.append(content["text"])
            elif message["msg_type"] == "execute_result":
                text.append(content["data"]["text/plain"])
            elif message["msg_type"] == "error":
                error.append("\n".join(content["traceback"]))

        self.client.execute_interactive(cell, output_hook=look, timeout=60)
        return "".join(text), "".join(error)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernel")
    environ = {**os.environ, "TMPDIR": str(folder), "NO_COLOR": "1"}
    manager, client = start_new_kernel(env=environ)
    book = Notebook(manager, client)
    try:
        book.folder = folder
        book.semaphores = set(Path("/dev/shm").glob("sem.mp-*"))
        assert book.run("%colors nocolor")[1] == ""
        assert book.run(SET_UP) == ("", "")
        yield book
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        client.context.destroy()
        book.manager = book.client = manager = client = None
        gc.collect()  # here, where the warning is expected


def test_functions_and_classes_of_cells_travel_and_prints_reach_the_cell(notebook):
    shown, error = notebook.run(
        "def work(rank, scale):\n    print('at work')\n    return Pair(rank, scale)\n\n"
        "pairs = gpus.run(work, 10)\n"
        "[pair.value for pair in pairs if type(pair) is Pair]"
    )
    assert error == ""
    assert shown == "".join(f"rank {r}: at work\n" for r in range(3)) + "[0, 10, 20]"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_call_that_does_not_fit_is_told_with_cell_and_line(notebook, mistake):
    cell, sentence, line = MISTAKES[mistake]
    _, error = notebook.run(cell.strip() + "\n\ngpus.run(work)")
    number = notebook.run("len(In) - 2")[0]
    assert sentence in error
    assert f"In[{number}] {line}" in error
    assert "team.py" not in error and "watch.py" not in error


def test_the_traceback_of_a_rank_names_the_cell(notebook):
    _, error = notebook.run("gpus.run(lambda rank: 1 / (rank - 2))")
    cell = notebook.run("len(In) - 2")[0]
    assert "rank 2 raised" in error and f"Cell In[{cell}], line 1, in <lambda>" in error


def test_the_stop_button_ends_the_ranks_and_the_next_call_works(notebook):
    threading.Timer(1.0, notebook.manager.interrupt_kernel).start()
    _, error = notebook.run("import time\ngpus.run(lambda rank: time.sleep(60))")
    assert "KeyboardInterrupt" in error
    assert notebook.run("gpus.run(lambda rank: rank)") == ("[0, 1, 2]", "")


def test_a_restart_leaves_no_process_and_no_file(notebook):
    pids, error = notebook.run("gpus.run(lambda rank: os.getpid())")
    assert error == ""
    pids = [int(pid) for pid in pids.strip("[]").split(",")]
    assert any(notebook.folder.glob("pymp-*"))
    notebook.manager.restart_kernel(now=True)
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "ranks outlive the kernel"
        time.sleep(0.05)
    assert set(Path("/dev/shm").glob("sem.mp-*")) <= notebook.semaphores
    left = {path.name.split("_")[0] for path in notebook.folder.iterdir()}
    assert left <= {"torchinductor", "ipykernel"}  # others' own
