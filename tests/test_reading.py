"""How long pages take: counted as a careful first reading, and kept within limits."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "_ext"))
import reading  # noqa: E402

from tiny_lm.course.checks.task import tasks_of  # noqa: E402

MOST_MINUTES, MOST_LINES, MOST_WORDS = 40, 60, 35
CHAPTERS = sorted((ROOT / "chapters").rglob("*.md"))
LABS = sorted((ROOT / "solutions").glob("*.py"))
# Pages that are still to be rewritten; an entry that is no longer needed fails.
TO_REWRITE: dict[str, set[str]] = {}


def page(tmp_path: Path, text: str) -> reading.Reading:
    path = tmp_path / "page.md"
    path.write_text(text)
    return reading.measure(path)


def test_words_are_counted_in_sentences_lists_cards_and_answers(tmp_path):
    read = page(
        tmp_path,
        "---\ntitle: not read\n---\n# Two words\n\nThree words here.\n\n- a b\n\n"
        "```{card-front}\n**Code** `a.py` · **Needs** x\n```\n\n"
        ":::{admonition} One question?\n:class: dropdown\nAn answer.\n:::\n",
    )
    assert read.words == 2 + 3 + 2 + 4 + 2 + 2


def test_a_formula_a_term_and_a_piece_of_code_are_words_and_a_citation_is_none(
    tmp_path,
):
    read = page(
        tmp_path,
        "Take $a + b$, {term}`active parameters <x>`, `f(a, b)` {cite}`k`.\n\n"
        "$$\nx = y + z\n$$ (name)\n",
    )
    assert read.words == 5


def test_shown_lines_are_those_of_cells_that_are_not_folded(tmp_path):
    cell = "```{code-cell} ipython3\n%sa = 1\n\nb = 2\n```\n\n"
    folds = (
        ":tags: [hide-input]\n",
        "---\ntags: [remove-input]\nmystnb:\n  image:\n    alt: x\n---\n",
        ":tags: [remove-cell]\n",
    )
    text = "".join(cell % fold for fold in ("", *folds)) + "```bash\nmake\n```\n"
    assert page(tmp_path, text).shown_lines == 2 + 1


def test_included_lines_are_those_of_the_object_and_none_after_the_lab(tmp_path):
    (tmp_path / "m.py").write_text(
        "class A:\n    def f(self):\n        a = 1\n\n        return a\n"
    )
    include = "```{literalinclude} m.py\n:pyobject: A.f\n```\n"
    read = page(tmp_path, include + f"\n:::{{after-lab}} 1.6\n{include}:::\n")
    assert (read.included_lines, read.shown_lines) == (3, 0)


def test_a_minute_is_a_hundred_words_or_five_lines(tmp_path):
    code = "```{code-cell} ipython3\n" + "a = 1\n" * 10 + "```\n"
    assert page(tmp_path, "word " * 300 + "\n\n" + code).minutes == 3 + 2


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("One. Two! Three? Four", 4),
        ("It took 1.5 s, i.e. Not long.", 1),
        ("“Is it?” Yes. (Or no.) End.", 4),
        ("One.\n`code` is the second.", 2),
        ("V3 used e.g. `this`. And that.", 2),
        ("a … b", 1),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(tmp_path, text, number):
    assert len(page(tmp_path, text).sentences) == number


def test_only_the_text_cells_of_a_lab_are_read(tmp_path):
    path = tmp_path / "lab.py"
    path.write_text("# %% [markdown]\n# Two words.\n\n# %%\n# a comment of six words\n")
    assert reading.measure(path).words == 2


TASKS = {task.name for lab in LABS for task in tasks_of(lab.stem)}
# Functions of the package that pass a task as they stand, or nearly.
ANSWERS = TASKS | {"loss", "train_step", "flops_per_token", "forward", "route"}


@pytest.mark.parametrize("path", [*CHAPTERS, *LABS], ids=lambda path: path.name)
def test_a_page_can_be_read_in_one_sitting(path):
    """At most 40 minutes, 60 shown lines besides `literalinclude`, 35 words.

    And no answer of a lab, unless it is folded behind `after-lab`.
    """
    read, name = reading.measure(path), path.relative_to(ROOT).as_posix()
    shown = "\n".join(read.shown_code)
    defined = set(re.findall(r"^ *def (\w+)\(", shown, re.MULTILINE))
    found = {
        "minutes": f"{read.minutes} minutes" if read.minutes > MOST_MINUTES else "",
        "lines": f"{read.shown_lines} lines" if read.shown_lines > MOST_LINES else "",
        "sentences": "\n".join(read.longer_than(MOST_WORDS)),
        "answers": ", ".join(sorted(defined & ANSWERS)),
    }
    broken = {kind for kind, words in found.items() if words}
    known = TO_REWRITE.get(name, set())
    assert not broken - known, "\n".join(found[kind] for kind in broken - known)
    assert not known - broken, f"{name} keeps its {known - broken}: mend TO_REWRITE"
