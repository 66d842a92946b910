"""Grade a folder: several submissions at once, each judged in a process of its own.

Chapter: appendix/teaching
Source: course
"""

import contextlib
import hashlib
import json
import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tqdm

from tiny_lm.course.grade import notebook, records, spaces
from tiny_lm.course.grade.judge import Court, silence
from tiny_lm.course.grade.notebook import Notebook, Unreadable
from tiny_lm.course.grade.reports import write_reports
from tiny_lm.course.grade.single import opened, record_of
from tiny_lm.course.grade.submissions import Found, find
from tiny_lm.files import prepare, read_json, write_whole

MARGIN_S = 60.0  # beyond the sum of a submission's time limits
KEPT = "All {} are graded already and stay as they are."
NOBODY = "No submission falls to this share."


@dataclass(frozen=True)
class Plan:
    """How a class is graded; a record that was made so is kept."""

    lab: str
    seed: int
    reference: bool


@dataclass
class Graded:
    """What came of a folder.

    Args:
        records: of the submissions that are graded, in the order of names.
        left: learners that could not be graded, and why.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def grade_folder(
    submissions: Path,
    lab: str,
    out: Path,
    *,
    jobs: int | None = None,
    timeout_s: float = 30.0,
    shard: tuple[int, int] = (1, 1),
    seed: int | None = None,
    reference: bool = False,
    lab_run: str = "short",
    say: Callable[[str], object] = print,
) -> Graded:
    """Grade every submission of a folder; those that are graded already stay.

    Args:
        out: where records go, as `results/<learner>.json`.
        jobs: submissions at once; by default, one a core.
        timeout_s: for one task of one learner.
        shard: (i, n): only every n-th submission, from the i-th on.
        seed: of the inputs that are drawn; by default a new one, or that of `out`.
        reference: whether learners' code may use `tiny_lm`'s own modules.
        lab_run: run the whole lab with each learner's answers, too: "short", with one
            step in each training, "full" or "none"; no points hang on it.

    Raises:
        ValueError: wrong use; nothing has been done then.
    """
    start = time.monotonic()
    lab_cells = notebook.pristine(lab)
    _require_apart(Path(submissions), out)
    found, other = find(Path(submissions), lab)
    found = found[shard[0] - 1 :: shard[1]]
    plan = Plan(lab, _seed_of(out, lab, seed), reference)
    graded = Graded()
    if all(_kept(plan, one, out) for one in found):
        say(KEPT.format(len(found)) if found else NOBODY)
        _collect(plan, found, out, graded)
        return graded
    theirs = submissions if submissions.is_dir() else submissions.parent
    hidden = [os.path.realpath(x) for x in (theirs, out)]
    how = {"reference": reference, "hidden": hidden, "lab_run": lab_run}
    with opened(lab, plan.seed, timeout_s, **how) as court:
        say(f"Grading {len(found)} of {lab}. Protected by: {'; '.join(_words(court))}.")
        if other:
            say(f"Left out, no notebooks: {', '.join(other[:10])}")
        jobs = jobs or os.cpu_count() or 1
        _run_all(court, plan, lab_cells, found, out, jobs, graded, say)
    graded.seconds = time.monotonic() - start
    return graded


def _words(court: Court) -> list[str]:
    words = court.measures.words()
    words.append(
        "tiny_lm's own modules may be used"
        if court.reference
        else "answers cannot use tiny_lm's own"
    )
    return words


def _require_apart(submissions: Path, out: Path) -> None:
    place, theirs = out.resolve(), submissions.resolve()
    if theirs.is_dir() and theirs in (place, *place.parents):
        raise ValueError(
            f"{out} lies among the submissions, which are only read: "
            "take another folder"
        )


def _seed_of(out: Path, lab: str, seed: int | None) -> int:
    """The seed of this grading: given, of an earlier part of it, or new.

    Raises:
        ValueError: the folder holds the results of another lab or seed.
    """
    file = out / "grading.json"
    known = read_json(file) if file.is_file() else {}
    if known and known.get("lab") != lab:
        raise ValueError(
            f"{out} holds results of {known.get('lab')}: take another folder"
        )
    if not out.exists():
        prepare(out)
        out.chmod(0o700)  # grades are nobody else's business
    prepare(out / "results")
    if seed is None and not known:
        drawn = {"lab": lab, "seed": secrets.randbelow(2**31)}
        text = json.dumps(drawn, allow_nan=False) + "\n"
        draft = out / f".grading-{os.getpid()}-{secrets.token_hex(4)}"
        draft.write_text(text, encoding="utf-8")
        with contextlib.suppress(FileExistsError):  # of several shards, one is first
            os.link(draft, file)
        draft.unlink()
        return int(read_json(file)["seed"])
    if seed is None:
        return int(known["seed"])
    write_whole(file, json.dumps({"lab": lab, "seed": seed}, allow_nan=False) + "\n")
    return seed


def _run_all(
    court: Court,
    plan: Plan,
    lab: Notebook,
    found: list[Found],
    out: Path,
    jobs: int,
    graded: Graded,
    say: Callable[[str], object],
) -> None:
    """Keep so many judges busy until all is judged."""
    waiting = [one for one in found if not _kept(plan, one, out)]
    if len(waiting) < len(found):
        say(f"{len(found) - len(waiting)} are graded already and stay as they are.")
    running: dict[int, tuple[Found, float, int]] = {}
    slots = [*range(jobs)]
    limit = court.timeout_s * (len(court.tasks) + 12) + MARGIN_S
    tqdm.tqdm.monitor_interval = 0  # no thread: this process is copied
    bar = tqdm.tqdm(total=len(waiting), disable=None, unit="notebook")
    try:
        while waiting or running:
            while waiting and slots:
                one, slot = waiting.pop(0), slots.pop(0)
                running[_start(court, lab, one, out, slot)] = (
                    one,
                    time.monotonic(),
                    slot,
                )
            for child in _ended(running, limit):
                one, _, slot = running.pop(child)
                slots.append(slot)
                bar.update()
    finally:  # by Ctrl-C, too: what is graded is told
        for child in running:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        bar.close()
        _collect(plan, found, out, graded)


def _collect(plan: Plan, found: list[Found], out: Path, graded: Graded) -> None:
    """Read what judges have written, and tell it."""
    for one in found:
        file = out / "results" / f"{one.file}.json"
        if _kept(plan, one, out):
            graded.records.append(read_json(file))
        else:
            graded.left[one.learner] = _trouble(out, one)
    if graded.records:
        write_reports(out, [*graded.left])


def _kept(plan: Plan, one: Found, out: Path) -> bool:
    """Whether this very submission was graded like this before."""
    wanted = {
        "format": records.FORMAT,
        "lab": plan.lab,
        "seed": plan.seed,
        "learner": records.clean(one.learner, 200),
        "sha256": _sha256(one),
    }
    try:
        record = read_json(out / "results" / f"{one.file}.json")
        grader = record["grader"]
        same = all(record[key] == value for key, value in wanted.items())
        like = grader["checks"], grader["reference"]
        return same and like == (records.digest(), plan.reference)
    except (ValueError, KeyError, TypeError):
        return False


def _sha256(one: Found) -> str:
    """Of the bytes, read in pieces; nothing where they cannot be read."""
    if one.path is None:
        return ""
    try:
        return hashlib.sha256(notebook.read_bytes(one.path)).hexdigest()
    except Unreadable:
        return ""


def _start(court: Court, lab: Notebook, one: Found, out: Path, slot: int) -> int:
    """A copy of this process that judges one submission and writes its record."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        spaces.prctl(spaces.DEATH, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with silence():
            record = record_of(court, lab, one, slot)
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_whole(out / "results" / f"{one.file}.json", text)
        code = 0
    except BaseException:
        folder = out / "problems"
        folder.mkdir(exist_ok=True)
        (folder / f"{one.file}.txt").write_text(
            traceback.format_exc(), encoding="utf-8"
        )
    finally:
        os._exit(code)


def _ended(running: dict[int, tuple[Found, float, int]], limit: float) -> list[int]:
    """Judges that are done; those that take too long are ended."""
    found = []
    for child, (_, start, _) in running.items():
        if time.monotonic() - start > limit:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        if os.waitpid(child, os.WNOHANG)[0]:
            found.append(child)
    if not found:
        time.sleep(0.02)
    return found


def _trouble(out: Path, one: Found) -> str:
    file = out / "problems" / f"{one.file}.txt"
    if file.is_file():
        return f"see {file}"
    return "its judge was ended"
