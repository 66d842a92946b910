"""A class of hostile learners, and one honest neighbour, in a folder.

What each may come to: nobody earns more than task 2.5, which all of them solved.
"""

import ctypes
import os
import socket
import sysconfig
from pathlib import Path

from honest_submissions import STYLES, honest
from hostile_cheats import CHEATS, THEFTS
from hostile_damage import DAMAGE
from submissions import EDITED, FILES, HONEST, LAB, answer, edited, solved, write

from tiny_lm.course.checks.task import tasks_of

ROOT = Path(__file__).resolve().parents[1]
CODE = CHEATS | THEFTS | DAMAGE
SECRET = "hush-hush-4711"
NEIGHBOUR = "neighbour"

# Files that are no notebook of this lab: told in one line, and nothing of them is run.
REFUSED = {*FILES, "cells_no_list"}

# What must be noted for a person, by the kind of the note; all else is useless.
NOTED = {
    "checks_edited": "edited check",
    "checks_deleted": "deleted cell",
    "answer_deleted": "deleted cell",
    "answer_twice": "duplicated cell",
    "cells_reversed": "reordered cell",
    "cells_retyped": "retyped cell",
    "older_version": "other version",
}


# Attacks on the kernel that runs a whole lab.
AT_ONCE = ("forks", "is_deaf", "kills_everybody", "prints_past_python")


class Place:
    """Where the class works, and what is watched meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.submissions, self.out = folder / "submissions", folder / "graded"
        self.submissions.mkdir()
        self.secret = folder / "secret.txt"
        self.secret.write_text(SECRET)
        self.line = socket.create_server(("127.0.0.1", 0))
        self.line.setblocking(False)

    def filled_in(self, code: str) -> str:
        """An attack that knows its way about this machine."""
        words = {
            "FOLDER": self.submissions,
            "OUT": self.out,
            "ROOT": ROOT,
            "HOME": Path.home(),
            "SITE": sysconfig.get_paths()["purelib"],
            "SECRET": self.secret,
            "PORT": self.line.getsockname()[1],
            "PIDS": os.readlink("/proc/self/ns/pid"),
            "SLEEP": SLEEP,
        }
        for name, value in words.items():
            code = code.replace(f"@{name}@", str(value))
        return code

    def hand_in(self, names: list[str] | None = None) -> list[str]:
        """Write the submissions; returns their names."""
        for name, code in CODE.items():
            notebook = answer(solved(LAB, HONEST), "2.1", self.filled_in(code))
            write(notebook, self.file(name))
        for name, edit in EDITED.items():
            edited(edit)(self.file(name))
        for name, make in FILES.items():
            make(self.file(name))
        write(answer(solved(LAB, HONEST), "2.6", by_heart()), self.file("by_heart"))
        write(solved(), self.file(NEIGHBOUR))
        for style in STYLES:
            write(honest(style), self.file(f"honest_{style.__name__}"))
        for file in self.submissions.iterdir():
            if names is not None and file.stem not in (*names, NEIGHBOUR):
                file.rmdir() if file.is_dir() else file.unlink()
        return sorted(file.stem for file in self.submissions.iterdir())

    def hand_in_at_once(self) -> list[str]:
        """Attacks that begin when the cell runs, for a lab that is run as a whole."""
        for name in AT_ONCE:
            code = self.filled_in(CODE[name]) + "\nscore_and_choose(*[None] * 3)\n"
            write(answer(solved(LAB, HONEST), "2.1", code), self.file(name))
        return [*AT_ONCE]

    def file(self, name: str) -> Path:
        """The file of one learner."""
        return self.submissions / f"{name}.ipynb"

    def called(self) -> bool:
        """Whether anybody has called."""
        try:
            self.line.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def looks(self) -> dict[str, tuple]:
        """Every submission as it lies there: kind, size, time, content."""
        return {
            file.name: (
                (found := file.lstat()).st_mode,
                found.st_size,
                found.st_mtime_ns,
                file.read_bytes() if file.is_file() else None,
            )
            for file in sorted(self.submissions.iterdir())
        }

    def escaped(self) -> list[Path]:
        """What was written where nobody should write."""
        places = [self.submissions, self.out, ROOT, ROOT / "tiny_lm", ROOT / "labs"]
        places += [
            Path.home(),
            Path(sysconfig.get_paths()["purelib"]),
            self.out / "results",
        ]
        places += [self.out / "results", *map(Path, ("/tmp", "/var/tmp", "/dev/shm"))]
        return [place / "escaped" for place in places if (place / "escaped").exists()]


SLEEP = 86_399.5  # seconds; nobody else sleeps so long


def adopt_orphans() -> None:
    """From now on, who loses its parent below us becomes our child."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def children() -> list[int]:
    """Processes that are ours, adopted ones too."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def by_heart() -> str:
    """An answer to task 2.6 that knows what the lab's check asks, and nothing else."""
    task = next(one for one in tasks_of(LAB) if one.id == "2.6")
    known = {}

    def remembering(bias, load, rate):
        result = task.reference(bias, load, rate)
        known[repr([bias.tolist(), load.tolist(), rate])] = result.tolist()
        return result

    task.outcome(remembering, explain=False)
    return (
        f"KNOWN = {known!r}\n\n"
        "def update_bias(bias, load, rate):\n"
        "    asked = repr([bias.tolist(), load.tolist(), rate])\n"
        "    return torch.tensor(KNOWN[asked], dtype=bias.dtype)\n"
    )
