"""Everything that is written about a class, from the records of its submissions.

Chapter: appendix/teaching
Source: course

Nothing is graded here, so it takes no time: after the shards of a big class have run,
or with the list that Moodle or Canvas exports, the same records are told anew.
"""

from collections.abc import Sequence
from pathlib import Path

from tiny_lm.course.grade import gradebook
from tiny_lm.course.grade.classroom import classroom
from tiny_lm.course.grade.feedback import feedback_page
from tiny_lm.course.grade.junit import junit
from tiny_lm.course.grade.results import read_results
from tiny_lm.course.grade.roster import fill
from tiny_lm.course.grade.summary import summary_page
from tiny_lm.files import prepare, read_text, write_whole


def write_reports(out: Path, left: Sequence[str] = ()) -> list[Path]:
    """Write tables, pages and the report for build servers; returns what was written.

    Args:
        out: the folder that `grade` wrote into.
        left: learners whose submissions were not graded.

    Raises:
        ValueError: there are no results, or none can be written.
    """
    results = read_results(out)
    prepare(out / "feedback")
    texts = {
        out / "summary.html": summary_page(results, left),
        out / "grades.csv": gradebook.grades(results),
        out / "moodle.csv": gradebook.moodle(results),
        out / "canvas.csv": gradebook.canvas(results),
        out / "junit.xml": junit(results),
    }
    for one in results:
        texts[out / "feedback" / f"{one.stem}.html"] = feedback_page(one)
    for path, text in texts.items():
        write_whole(path, text)
    return list(texts)


def tell(
    out: Path,
    exported: Path | None = None,
    column: str = "",
    for_classroom: bool = False,
) -> int:
    """The command `feedback`: write all anew, and fill in an exported list.

    Args:
        for_classroom: print nothing but what GitHub Classroom's reporter reads.

    Returns:
        0, or 1 where a learner is not in the list.

    Raises:
        ValueError: there are no results, or the list cannot be filled in.
    """
    results = read_results(out)
    if for_classroom:
        if len(results) != 1:
            raise ValueError(f"a repository of Classroom is one learner's: {out}")
        print(classroom(results[0]))
        return 0
    filled = fill(read_text(exported), results, column) if exported else None
    written = write_reports(out)
    print(
        f"{len(results)} learners: {written[0]}, and {len(written) - 1} files beside it"
    )
    if filled is None or exported is None:
        return 0
    target = out / f"filled-{exported.name}"
    write_whole(target, filled.text)
    print(f"points stand under {filled.column!r} in {target}")
    for learner in filled.lost:
        print(f"not in the list, or not alone in it: {learner}")
    return int(bool(filled.lost))
