"""The page that an instructor gets: who passed what, and where the class is stuck.

Chapter: appendix/teaching
Source: course

The picture is a table: a row a learner, a column a task, a sign and a colour in each
place. So a screen reader has its rows and columns, and nothing rests on colour alone.
"""

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

from tiny_lm.course.grade.gradebook import task_ids
from tiny_lm.course.grade.page import esc, kind, name, page, prose, share, sign, table
from tiny_lm.course.grade.results import STATUS, Result, TaskResult, shown

MANY = 3  # properties of a task that are worth naming


def summary_page(results: Sequence[Result], left: Sequence[str] = ()) -> str:
    """The whole page of a class."""
    graded = [one for one in results if one.graded]
    lab = results[0].lab
    body = [
        f'<p class="lab">Lab {esc(lab)}</p>',
        "<h1>The class at a glance</h1>",
        _facts(results, graded, left),
        _stuck(graded),
        _class(results),
        _for_a_person(results, left),
        _files(results),
    ]
    return page(f"Class summary, lab {lab}", "\n".join(filter(None, body)))


def _facts(results: Sequence[Result], graded: Sequence[Result], left: Sequence[str]):
    said = f"{_count(len(graded), 'notebook')} graded"
    if refused := len(results) - len(graded):
        said += f", {refused} that could not be read as this lab"
    if left:
        said += f", {len(left)} not graded yet"
    if graded:
        points = [one.points for one in graded]
        said += f". Points: median {shown(statistics.median(points))}, from "
        said += f"{shown(min(points))} to {shown(max(points))}, of "
        said += shown(max(one.max_points for one in graded))
    return f'<p class="points">{said}.</p>'


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def tasks_by_id(graded: Sequence[Result]) -> dict[str, list[TaskResult]]:
    """What all learners made of each task."""
    found: dict[str, list[TaskResult]] = {name: [] for name in task_ids(graded)}
    for one in graded:
        for task in one.tasks:
            found[task.id].append(task)
    return found


def properties_failed(tasks: Sequence[TaskResult]) -> list[tuple[str, int]]:
    """The properties at which answers to one task were refused, commonest first."""
    failed = Counter(task.refused_at for task in tasks if task.status == "failed")
    return sorted(failed.items(), key=lambda item: (-item[1], item[0]))


def _stuck(graded: Sequence[Result]) -> str:
    if not graded:
        return ""
    by_id = tasks_by_id(graded)
    body = "".join(_one_task(id_, tasks) for id_, tasks in by_id.items())
    return f"<h2>Where the class is stuck</h2>{_sentence(by_id)}{_key(graded)}{body}"


def _sentence(by_id: dict[str, list[TaskResult]]) -> str:
    """The task that most of those who tried it failed, and its property."""
    wrong = {
        id_: [t for t in tasks if not t.holds and t.status != "not done"]
        for id_, tasks in by_id.items()
    }
    worst = max(wrong, key=lambda id_: len(wrong[id_]))
    if not wrong[worst]:
        return "<p>Every answer that was written passes.</p>"
    said = f"Most at task {esc(worst)}, {esc(wrong[worst][0].title)}: "
    said += f"{len(wrong[worst])} of {len(by_id[worst])} did not get through"
    failed = properties_failed(wrong[worst])
    if failed:
        text, times = failed[0]
        said += f", {times} of them at “{prose(text)}”"
    return f"<p>{said}.</p>"


def _one_task(id_: str, tasks: Sequence[TaskResult]) -> str:
    counts = Counter(task.status for task in tasks)
    parts = [(status, counts[status]) for status in STATUS if counts[status]]
    words = ", ".join(f"{n} {STATUS[status][1]}" for status, n in parts)
    lines = properties_failed(tasks)
    listed = "".join(f"<li>{n} × {prose(text)}</li>" for text, n in lines[:MANY])
    if len(lines) > MANY:
        more = sum(n for _, n in lines[MANY:])
        listed += f"<li>{more} × another property</li>"
    others = [f"{n} {STATUS[s][1]}" for s, n in parts if s not in ("passed", "failed")]
    rest = f'<p class="soft">{", ".join(others)}</p>' if others else ""
    title = tasks[0].title or tasks[0].name
    return (
        f'<div class="stuck"><p><span><strong>{esc(id_)}</strong> {esc(title)}</span>'
        f"<span>{counts['passed']} of {len(tasks)}</span></p>"
        f"{share(parts, words)}{listed and f'<ul>{listed}</ul>'}{rest}</div>"
    )


def _key(results: Sequence[Result]) -> str:
    """The signs that are on this page, with their words."""
    seen = {task.status for one in results for task in one.tasks}
    items = "".join(
        f"<li>{sign(status)}{words}</li>"
        for status, (_, words) in STATUS.items()
        if status in seen
    )
    return f'<ul class="key" aria-label="What the signs mean">{items}</ul>'


def _class(results: Sequence[Result]) -> str:
    ids = task_ids(results)
    heads = "".join(f'<th scope="col">{esc(id_)}</th>' for id_ in ids)
    ranked = sorted(results, key=lambda r: (-r.points, r.learner))
    rows = "".join(_row(one, ids) for one in ranked)
    return (
        "<h2>Learners and tasks</h2>"
        '<p class="soft">Most points first. A name leads to the learner’s page.</p>'
        f"{_key(results)}"
        '<table class="class"><thead><tr><th scope="col" class="who">Learner</th>'
        f'{heads}<th scope="col" class="sum">Points</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _row(one: Result, ids: Sequence[str]) -> str:
    tasks = {task.id: task for task in one.tasks}
    places = "".join(_place(tasks.get(id_)) for id_ in ids)
    points = f"{shown(one.points)} of {shown(one.max_points)}" if one.graded else "–"
    link = f"feedback/{quote(one.stem, errors='surrogateescape')}.html"
    return (
        f'<tr><th scope="row" class="who"><a href="{esc(link)}" '
        f'title="{esc(one.learner)}">{name(one.name)}</a></th>{places}'
        f'<td class="sum">{points}</td></tr>'
    )


def _place(task: TaskResult | None) -> str:
    if task is None:
        return "<td></td>"
    words = STATUS[task.status][1] + (f": {task.refused_at}" if task.refused_at else "")
    mark, _ = STATUS[task.status]
    return (
        f'<td><span class="sign {kind(task.status)}" role="img" '
        f'aria-label="{esc(words)}" title="{esc(words)}">{esc(mark)}</span></td>'
    )


def _noted(one: Result) -> list[tuple[str, str]]:
    """(kind, words) of what was noticed, with the cells where it was."""
    places: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for what, cell, says in one.notes:
        alike = re.sub(r"\btask \d+\.\d+", "a task", says)
        alike = re.sub(r"\bTask \d+\.\d+", "A task", alike)
        places.setdefault((what, alike), []).append((cell, says))
    found = []
    for (what, alike), where in places.items():
        said = where[0][1] if len({says for _, says in where}) == 1 else alike
        named = [cell for cell in dict.fromkeys(cell for cell, _ in where) if cell]
        found.append((what, f"{said} ({', '.join(named)})" if named else said))
    return found


def _for_a_person(results: Sequence[Result], left: Sequence[str]) -> str:
    """What a machine noticed and a person should look at."""
    rows = [(one, "not graded", one.reason) for one in results if not one.graded]
    rows += [(one, *note) for one in results for note in _noted(one)]
    waiting = "".join(f"<li>{name(learner)}</li>" for learner in left)
    said = f"<h2>Not graded yet</h2><ul>{waiting}</ul>" if waiting else ""
    if not rows:
        return said
    lines = "".join(
        f'<tr><th scope="row">{name(one.name)}</th><td>{esc(what)}</td>'
        f"<td>{esc(says)}</td></tr>"
        for one, what, says in rows
    )
    heads = "".join(
        f'<th scope="col">{h}</th>' for h in ("Learner", "What", "In words")
    )
    return (
        f"{said}<h2>For a person to look at</h2>"
        '<p class="soft">None of this took or gave a point. What is called suspicious '
        "is not shown to the learner: it may be harmless.</p>"
        f"{table(heads, lines)}"
    )


def _files(results: Sequence[Result]) -> str:
    grader = results[0].grader
    named = (
        ("grades.csv", "points of each task, for a spreadsheet"),
        ("moodle.csv", "for Moodle"),
        ("canvas.csv", "for Canvas"),
        ("junit.xml", "for a build server"),
    )
    listed = "".join(f'<li><a href="{f}">{f}</a>, {w}</li>' for f, w in named)
    facts = []
    if grader.get("version"):
        facts.append(f"tiny_lm {grader['version']}")
    if grader.get("protected_by"):
        facts.append("protected by " + ", ".join(map(str, grader["protected_by"])))
    told = f'<p class="soft">Graded with {esc("; ".join(facts))}.</p>' if facts else ""
    return f'<h2>Files beside this page</h2><ul class="files">{listed}</ul>{told}'
