"""Records as the grader writes them, made by hand: a class of any size."""

import json
import random
from pathlib import Path

PROPERTIES = {
    "2.1": ("scores are sigmoids of dot products", "best first", "any sizes"),
    "2.2": ("the bias is in the choice, not in the gate", "gates sum to 1"),
    "2.3": ("at most two groups are chosen", "inside them, the best experts"),
    "2.10": ("equals the definition on random choices",),
}
TITLES = {"2.1": "Score", "2.2": "Gate", "2.3": "Limit", "2.10": "Load"}


def task(id_: str, status: str = "passed", failed: int = 0, **more: object) -> dict:
    """One task; `failed` is the place of the property that does not hold."""
    texts = PROPERTIES[id_]
    wrong = status == "failed"
    record = {
        "id": id_,
        "name": f"task_{id_.replace('.', '_')}",
        "title": TITLES[id_],
        "points": 2,
        "earned": 2 * (status == "passed"),
        "status": status,
        "passed": len(texts) if status == "passed" else failed,
        "properties": list(texts),
        "property": texts[failed] if wrong else "",
        "on": "3 tokens, 4 experts" if wrong else "",
        "wanted": "[0, 1]\n[2, 3]" if wrong else "",
        "got": "[1, 0]\n[2, 3]" if wrong else "",
        "words": "The order was lost: best first is asked for." if wrong else "",
        "printed": "",
        "hint": "Which argument of topk sorts?",
        "report": f"Task {id_}  1 of {len(texts)}\n  ✓ …" if wrong else "",
        "seconds": 0.25,
        "lab": "",
    }
    return {**record, **more}


def record(learner: str, *tasks: dict, **more: object) -> dict:
    """One submission; without tasks, all are passed."""
    tasks = tasks or tuple(task(id_) for id_ in PROPERTIES)
    whole = {
        "format": 1,
        "lab": "02_moe",
        "learner": learner,
        "submission": f"{learner}.ipynb",
        "sha256": "ab" * 32,
        "seed": 7,
        "grader": {"version": "0.1.0", "protected_by": ["a private folder"]},
        "status": "graded",
        "reason": "",
        "points": sum(t["earned"] for t in tasks),
        "max_points": sum(t["points"] for t in tasks),
        "seconds": 3.0,
        "tasks": list(tasks),
        "notes": [],
        "lab_run": {"status": "ran"},
    }
    return {**whole, **more}


def refused(learner: str, reason: str) -> dict:
    """A submission that could not be read."""
    tasks = [task(id_, "refused", properties=[], hint="") for id_ in PROPERTIES]
    return record(learner, *tasks, status="refused", reason=reason)


def note(kind: str, says: str, cell: str = "check_2_2") -> dict:
    """Something that was noticed."""
    return {"kind": kind, "cell": cell, "says": says}


def keep(out: Path, *records: dict) -> Path:
    """Write records where the grader would."""
    (out / "results").mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(records):
        path = out / "results" / f"{one['learner'][:40].replace('/', '_')}.json"
        if path.exists():
            path = path.with_name(f"{number}.json")
        path.write_text(json.dumps(one))
    return out


def a_class(size: int, seed: int = 0) -> list[dict]:
    """Learners that differ in how far they got."""
    draw = random.Random(seed)
    ways = ("failed", "failed", "failed", "not done", "error", "timeout", "missing")
    found = []
    for number in range(size):
        skill = draw.random() + 0.25
        tasks = []
        for place, (id_, texts) in enumerate(PROPERTIES.items()):
            good = draw.random() < skill - 0.12 * place
            status = "passed" if good else draw.choice(ways)
            tasks.append(task(id_, status, draw.randrange(len(texts))))
        found.append(record(f"learner-{number:02}", *tasks))
    return found
