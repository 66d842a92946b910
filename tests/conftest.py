"""What every test shares: shape checks in all processes, and how notebooks run."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHAPE_CHECKS = ROOT / "tests" / "shape_checks"

# Tests compute little at a time. A second thread would only wait for its turn, burning
# the other core meanwhile: beside other work, twenty times what one thread takes.
os.environ["OMP_NUM_THREADS"] = "1"

# In this process the hook is installed by this import; processes started from here
# (emulated ranks, `python -m tiny_lm`, notebook kernels) find it through PYTHONPATH.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(SHAPE_CHECKS), os.environ.get("PYTHONPATH")])
)
# The hook writes each module anew, which takes longer than to import it: whoever runs
# the tests without bytecode on disk would pay for it in hundreds of processes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
sys.modules.pop("sitecustomize", None)
sys.path.insert(0, str(SHAPE_CHECKS))
sys.path.insert(0, str(ROOT / "tests"))
import budget  # noqa: E402
import sitecustomize  # noqa: E402, F401

# Who starts the tests in the background of a script hands down that Ctrl-C is ignored,
# and processes of tests would inherit it; what has a handler here has none in them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Nothing in the tests may ask a model hub: the oracle is built from a config.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A new folder with a path short enough for sockets, as `tmp_path` may not be."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Warnings that a kernel prints are not compared, only what a cell prints."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


# They take longest, so they begin: where files run side by side, no core waits long for
# the last of them.
FIRST = (
    *("lab_runs", "site", "explorer_pages", "book_build", "launch", "twins"),
    *("cluster_in_a_notebook", "cluster", "v3_step", "train", "board", "comm"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; a graded cell's id and points go into the JUnit report.

    Cells are known by their metadata: nbval numbers its items from 0 in one release
    and from 1 in the next.
    """
    place = {f"test_{name}": number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(FIRST)))
    for item in items:
        grading = getattr(item, "cell", {}).get("metadata", {}).get("nbgrader", {})
        if grading.get("grade"):
            item.user_properties.append(("grade_id", grading["grade_id"]))
            item.user_properties.append(("points", grading["points"]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how long the tests of each part took."""
    budget.report(terminalreporter)
