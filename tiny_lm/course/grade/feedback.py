"""The page that a learner gets: points of each task, what failed, and a hint.

Chapter: appendix/teaching
Source: course

It holds nothing about anybody else, no seed, and no suspicion: what a machine finds odd
is for the instructor to look at, in the summary of the class.
"""

from tiny_lm.course.grade.page import (
    esc,
    fold,
    kind,
    name,
    page,
    pre,
    prose,
    share,
    sign,
    table,
)
from tiny_lm.course.grade.results import STATUS, Result, TaskResult, shown

# What happened, where there is no property to name.
HAPPENED = {
    "failed": "",
    "not done": "",
    "missing": "No answer to this task was found in your notebook. Its cell may have "
    "been deleted, or its function renamed.",
    "error": "The cell with your answer does not run, so nothing could be checked.",
    "timeout": "Your function ran longer than the limit. Does a loop ever end?",
    "stopped": "The process with your function ended before it answered: it took too "
    "much memory, or left Python.",
    "refused": "",
}
FOR_LEARNERS = {  # notes that say what counted, and accuse nobody
    "edited check",
    "deleted cell",
    "duplicated cell",
    "reordered cell",
    "retyped cell",
    "edited output",
    "other version",
}


def feedback_page(one: Result) -> str:
    """The whole page of one learner."""
    points = f"{shown(one.points)} of {shown(one.max_points)} points"
    parts = [("passed", one.points), ("not done", one.max_points - one.points)]
    body = [
        f'<p class="lab">Lab {esc(one.lab)}</p>',
        f"<h1>Feedback for {name(one.name)}</h1>",
        f'<p class="points">{points}</p>',
        share(parts, points),
    ]
    if not one.graded:
        why = f"Your file could not be graded: {esc(one.reason)}"
        body.append(f'<div class="card refused"><p>{why}</p></div>')
    else:
        body += [_table(one), _open_tasks(one)]
    body += [_noticed(one), _how(one)]
    return page(f"Feedback, lab {one.lab}", "\n".join(filter(None, body)))


def _table(one: Result) -> str:
    rows = "".join(
        f'<tr><th scope="row"><a href="#task-{esc(task.id)}">{esc(task.id)}</a></th>'
        f"<td>{esc(task.title or task.name)}</td>"
        f"<td>{sign(task.status)} {STATUS[task.status][1]}</td>"
        f'<td class="number">{shown(task.earned)} of {shown(task.points)}</td></tr>'
        for task in one.tasks
    )
    heads = '<th scope="col">Task</th><th scope="col">What was written</th>'
    heads += '<th scope="col">Result</th><th scope="col" class="number">Points</th>'
    return f"<h2>Your tasks</h2>{table(heads, rows)}"


def _open_tasks(one: Result) -> str:
    waiting = [task for task in one.tasks if task.status == "not done"]
    right = [task for task in one.tasks if task.holds]
    wrong = [task for task in one.tasks if task not in (*waiting, *right)]
    parts = []
    if wrong:
        parts += ["<h2>What to look at</h2>", *map(_card, wrong)]
    if waiting:
        said = "The stub still stands: its last line waits for your answer."
        parts += [f"<h2>Not done yet</h2><p>{said}</p>", *map(_waiting, waiting)]
    if right:
        parts += ["<h2>What holds</h2>", *map(_held, right)]
    return "\n".join(parts)


def _waiting(task: TaskResult) -> str:
    title = f"{task.id} {task.title or task.name}"
    hint = f"<p>{prose(task.hint)}</p>" if task.hint else ""
    told = fold(f"{title}: a hint", hint) if hint else f"<p>{esc(title)}</p>"
    return f'<div id="task-{esc(task.id)}">{told}</div>'


def _held(task: TaskResult) -> str:
    lines = "".join(f"<li><b>✓</b>{prose(text)}</li>" for text in task.properties)
    listed = f'<ul class="holds">{lines}</ul>' if lines else ""
    title = f"{task.id} {task.title or task.name}"
    return f'<div id="task-{esc(task.id)}">{fold(title, listed)}</div>'


def _card(task: TaskResult) -> str:
    parts = [
        f'<section class="card {kind(task.status)}" id="task-{esc(task.id)}">',
        f"<h3>{esc(task.id)} · {esc(task.title or task.name)}</h3>",
        f"<p>{sign(task.status)} {STATUS[task.status][1]}, "
        f"{shown(task.earned)} of {shown(task.points)} points</p>",
    ]
    if HAPPENED[task.status]:
        parts.append(f"<p>{HAPPENED[task.status]}</p>")
    if task.refused_at:
        parts.append(
            f"<p>What does not hold: <strong>{prose(task.refused_at)}</strong></p>"
        )
    parts += [_values(task), f"<p>{prose(task.words)}</p>" if task.words else ""]
    parts.append(_properties(task))
    if task.lab == "passed":
        parts.append(
            '<p class="soft">The check in the lab accepts this answer. Points rest on '
            "the same properties with other inputs.</p>"
        )
    if task.printed.strip():
        parts.append(fold("What your function printed", pre(task.printed)))
    if task.hint:
        parts.append(fold("A hint", f"<p>{prose(task.hint)}</p>"))
    if task.report:
        parts.append(fold("The whole report", pre(task.report)))
    return "\n".join([*filter(None, parts), "</section>"])


def _values(task: TaskResult) -> str:
    """On which input, what was wanted, what came."""
    found = [(n, v) for n in ("on", "wanted", "got") if (v := getattr(task, n))]
    listed = "".join(f"<dt>{n}</dt><dd>{pre(text)}</dd>" for n, text in found)
    return f"<dl>{listed}</dl>" if listed else ""


def _properties(task: TaskResult) -> str:
    """All properties with a sign: those that hold, the one that does not, the rest."""
    if task.status != "failed":
        return ""
    lines = []
    for i, text in enumerate(task.properties):
        mark = "✓" if i < task.passed else "✗" if i == task.passed else "–"
        lines.append(f"<li><b>{mark}</b>{prose(text)}</li>")
    listed = f'<ul class="holds">{"".join(lines)}</ul>'
    later = task.passed + 1 < len(task.properties)
    told = '<p class="soft">– is checked after the one above.</p>' if later else ""
    return fold(f"{task.passed} of {len(task.properties)} hold", listed + told)


def _noticed(one: Result) -> str:
    told = [n for n in one.notes if n[0] in FOR_LEARNERS]
    if not told:
        return ""
    lines = "".join(f"<li>{esc(says)}</li>" for _, _, says in told)
    return f"<h2>About the notebook</h2><ul>{lines}</ul>"


def _how(one: Result) -> str:
    said = "Your answers were put into a fresh copy of the lab and checked with inputs "
    said += "that nobody had seen: the properties of the lab, on other numbers. "
    said += "Cells of the lab that were changed, and outputs that were stored, "
    said += "count for nothing."
    facts = ""
    if one.sha256:
        facts = f" Notebook {esc(one.submission)}, SHA-256 {esc(one.sha256[:16])}."
    return f'<h2>How this was graded</h2><p class="soft">{said}{facts}</p>'
