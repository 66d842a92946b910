"""`_toc.yml` is the one list of pages, and everything that it implies exists."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import (
    PackageNotFoundError,
    packages_distributions,
    requires,
)
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tiny_lm"
PART = re.compile(r"\d\d_\w+")
CARD = re.compile(r"```\{card-front\}\n(.*?)```", re.DOTALL)
# Parts of one thing are tested through the thing.
TESTED_WITH = {
    "__main__": "command_line",
    "start": "launch",
    "watch": "launch",
    "rank": "cluster",
    "team": "cluster",
    "lines": "board",
    "report": "board",
    "meter": "comm",
    "witness": "comm",
    "calls": "comm",
    "seat": "board",
    "attempt": "messages",
    "lock": "board",
}
LABELS = ("**Question.**", "**You will be able to**", "**Code**")
PLACEHOLDER = re.compile(r"\b(coming soon|to be written|work in progress)\b", re.I)


def files_of(entry: object) -> Iterator[str]:
    """Every page of the table of contents, however deep."""
    if isinstance(entry, dict):
        yield from (entry[key] for key in ("root", "file") if key in entry)
        entry = list(entry.values())
    if isinstance(entry, list):
        for inner in entry:
            yield from files_of(inner)


def source(page: str) -> Path:
    """The file behind an entry of the table of contents."""
    found = [p for s in (".md", ".ipynb") if (p := ROOT / f"{page}{s}").is_file()]
    assert found, f"_toc.yml lists {page}, and there is no such file"
    return found[0]


PAGES = list(files_of(yaml.safe_load((ROOT / "_toc.yml").read_text())))
CHAPTERS = [page for page in PAGES if re.match(r"chapters/\d\d_", page)]
LABS = sorted(path.stem for path in (ROOT / "solutions").glob("*.py"))
MODULES = sorted(
    path.relative_to(PACKAGE)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)


def card(page: str) -> str:
    found = CARD.findall(source(page).read_text())
    assert len(found) == 1, f"{page} has {len(found)} front cards, and needs one"
    return found[0]


def test_every_page_is_listed_once():
    written = [
        path.relative_to(ROOT).with_suffix("").as_posix()
        for folder in ("chapters", "labs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".md", ".ipynb") and ".ipynb_checkpoints" not in path.parts
    ]
    notes = {"labs/AGENTS"}  # for a learner's assistant, not for a reader
    assert sorted(PAGES) == sorted(set(written) - notes)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_text(page):
    text = source(page).read_text()
    assert re.search(r"^#|\"# ", text, re.MULTILINE), "no title"
    assert not PLACEHOLDER.search(text)


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_front_card_says_what_a_reader_asks_first(page):
    text = card(page)
    assert all(label in text for label in LABELS), text
    assert not re.search(r"\b\d+ minutes\b", text), "minutes are counted, not typed"


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_front_card_names_modules_that_exist(page):
    named = re.findall(r"`(tiny_lm/[\w/]+\.py)`", card(page))
    missing = [name for name in named if not (ROOT / name).is_file()]
    assert named and not missing, f"no such module: {missing}"


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_front_card_names_tasks_that_exist(page):
    part = PART.search(page)[0]
    for number, first, last in re.findall(
        r"\*\*Lab\*\* (\d\d)(?:, tasks? \d+\.(\d+)(?:-\d+\.(\d+))?)?", card(page)
    ):
        assert number == part[:2], f"{page} names the lab of another part"
        assert part in LABS, f"no solutions/{part}.py"
        lab = (ROOT / "solutions" / f"{part}.py").read_text()
        for task in range(int(first or 1), int(last or first or 1) + 1):
            assert f"Task {int(number)}.{task}" in lab


@pytest.mark.parametrize("lab", LABS)
def test_a_lab_has_a_part_a_notebook_a_solution_and_a_place_in_the_book(lab):
    assert PART.fullmatch(lab)
    assert (ROOT / "chapters" / lab).is_dir(), f"no part of the slug {lab}"
    assert (ROOT / "labs" / f"{lab}.ipynb").is_file()
    assert (ROOT / "solutions" / f"{lab}.ipynb").is_file()
    assert f"labs/{lab}" in PAGES


def test_every_notebook_comes_from_a_solution():
    labs = sorted(path.stem for path in (ROOT / "labs").glob("*.ipynb"))
    solved = sorted(path.stem for path in (ROOT / "solutions").glob("*.ipynb"))
    assert labs == solved == LABS


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_has_tests_of_its_name(module):
    """In `course/` a test may be named after what it proves, and import the module."""
    name = TESTED_WITH.get(module.stem, module.stem)
    if "course" not in module.parts:
        assert (ROOT / "tests" / f"test_{name}.py").is_file()
        return
    dotted = ".".join(["tiny_lm", *module.with_suffix("").parts])
    package, _, stem = dotted.rpartition(".")
    uses = re.compile(rf"{dotted}\b|from {package} import .*\b{stem}\b")
    tests = (ROOT / "tests").glob("test_*.py")
    by_checks = "checks" in module.parts
    assert by_checks or any(uses.search(test.read_text()) for test in tests)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_the_chapter_that_a_module_names_is_in_the_book(module):
    """Once a part has chapters; parts that are not written yet have none."""
    named = re.findall(r"^Chapter: (\S+)$", (PACKAGE / module).read_text(), re.M)
    for chapter in named:
        part = chapter.split("/")[0]
        if "/" in chapter and any(page.split("/")[1] == part for page in PAGES):
            assert f"chapters/{chapter}" in PAGES


def brought_by(extra: str) -> set[str]:
    """The distributions that `pip install tiny_lm[extra]` brings, as installed here."""
    wanted, found = [Requirement(f"tiny_lm[{extra}]")], set()
    while wanted:
        now = wanted.pop()
        name = canonicalize_name(now.name)
        try:
            needs = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue
        found.add(name)
        for need in needs:
            extras = [{"extra": e} for e in now.extras] or [{"extra": ""}]
            new = canonicalize_name(need.name) not in found or need.extras
            if new and (not need.marker or any(map(need.marker.evaluate, extras))):
                wanted.append(need)
    return found


def test_a_page_imports_nothing_that_only_the_tests_bring():
    """`make book` on a clean clone has not installed the tests' libraries."""
    only_tests = brought_by("dev") - brought_by("book")
    assert {"pytest", "jupytext", "transformers"} <= only_tests
    blocked = [
        module
        for module, names in packages_distributions().items()
        if {canonicalize_name(name) for name in names} <= only_tests
    ]
    lines = {
        line
        for page in PAGES
        if not page.startswith("labs/")
        for line in re.findall(
            r"^(?:from tiny_lm\S* import (?:\([^)]*\)|[^(\n]+)|import tiny_lm\S*)$",
            source(page).read_text(),
            re.MULTILINE,
        )
    }
    assert len(lines) > 50
    program = f"import sys\nsys.modules.update(dict.fromkeys({blocked}))\n"
    done = subprocess.run(
        [sys.executable, "-c", program + "\n".join(sorted(lines))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
