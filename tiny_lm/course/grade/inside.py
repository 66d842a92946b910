"""Runs a whole lab under nbval, inside a sandbox, and tells how each cell ended.

Chapter: appendix/teaching
Source: course

The kernel runs a learner's code, so what is told from here is told to the instructor
and earns no points.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

from tiny_lm.course.grade.channel import Channel

OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--nbval-lax")


def import_early() -> None:
    """What takes seconds to import: once, in the zygote."""
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # a grammar of URLs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ipykernel  # noqa: F401
        import jupyter_client.manager  # noqa: F401
        import nbval.plugin  # noqa: F401
        import pytest  # noqa: F401


class Reporter:
    """Tells of each cell, as soon as it is through."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.ids: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """The call of a cell, or whatever kept it from being called."""
        if report.when == "call" or report.outcome != "passed":
            ended = report.outcome if not hasattr(report, "wasxfail") else "skipped"
            cell = self.ids.get(report.nodeid, report.nodeid)
            self.channel.send({"kind": "cell", "cell": cell, "is": ended})

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Cells go by their ids; nbval numbers them."""
        for item in items:
            self.ids[item.nodeid] = item.cell.get("id", item.name)


def run(channel: Channel, path: list[str]) -> None:
    """Take a notebook, run it, tell how it went.

    Args:
        path: where the kernel finds the course.
    """
    import pytest

    head, blobs = channel.receive()
    file = Path("lab.ipynb")
    file.write_bytes(blobs[0])
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    os.environ["TINY_LM_PIECES"] = str(Path("pieces").resolve())
    if head["steps"]:
        os.environ["TINY_LM_LAB_STEPS"] = str(head["steps"])
    options = [*OPTIONS, "--nbval-current-env", "-c", os.devnull, "--rootdir", "."]
    options += ["--nbval-cell-timeout", str(head["cell_s"]), str(file)]
    code = pytest.main(options, plugins=[Reporter(channel)])
    channel.send({"kind": "end", "code": int(code)})
