"""What a machine can hold of the house style: imports, sizes, headers, plain words."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tiny_lm"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = [*sorted(ROOT.glob("_*.py")), *sorted((ROOT / "_ext").glob("*.py"))]
BROWSER = sorted([*PACKAGE.rglob("*.js"), *(ROOT / "_static").glob("*.js")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))

LEAVES = {"notation", "config", "parts", "recipe", "hardware", "kernels"}
JOINTS = {
    "pipelined",
    "step",
    "train",
    "twins",
    "ladder",
    "checkpoint",
    "checkpoint_storage",
    "__main__",
}  # where model, gpus and parallel may meet
ROOMS = {"gpus", "replay", "parallel", "course"}
DOOR = ("gpus.witness", "replay.recorder")  # the one way from processes to tapes
# The one way into the course, taken only where `train --pieces` asks for it.
TO_PIECES = ("__main__", "course.assembly.command")
WIRED = {
    "gpus.launch",
    "gpus.torchrun",
    "gpus.mesh",
    "gpus.calls",
    "parallel.pipeline",
    "checkpoint",
    "checkpoint_storage",
}
PARTS = (
    "01_baseline 02_moe 03_mla 04_fp8 05_comm 06_together 07_beyond appendix".split()
)
FILLER = re.compile(
    r"\b(simply|obviously|trivially|basically|needless to say|note that|"
    r"it is important to|in this section|as we all know|let's dive|delve)\b",
    re.IGNORECASE,
)
# Written so that no pattern finds itself.
UNFINISHED = re.compile(r"\b(T[O]DO|F[I]XME|X[X]X|lorem [i]psum)\b")
MACHINE = re.compile(
    r"/(?:work|root|tmp|home)/|pypi\.[o]rg|python[h]osted|npmjs\.[a-z]|download\.[p]ytorch"
)


def by_name(paths: list[Path]) -> pytest.MarkDecorator:
    names = [path.relative_to(ROOT).as_posix() for path in paths]
    return pytest.mark.parametrize("path", paths, ids=names)


def dotted(path: Path) -> str:
    """`gpus.mesh` for tiny_lm/gpus/mesh.py; a folder's `__init__` has its name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


NAMES = {dotted(path) for path in MODULES}


class WithoutTypes(ast.NodeTransformer):
    """Drops `if TYPE_CHECKING:`, which names types for annotations and runs nothing."""

    def visit_If(self, node: ast.If) -> ast.If | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else node


def imports(path: Path) -> Iterator[str]:
    """Full names of everything a file imports, wherever in the file it does so."""
    for node in ast.walk(WithoutTypes().visit(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, as `gpus.mesh`."""
    found = set()
    for name in imports(path):
        if name.split(".")[0] == "tiny_lm":
            inner = name.removeprefix("tiny_lm").removeprefix(".")
            while inner not in NAMES:
                inner = inner.rpartition(".")[0]
            found.add(inner)
    return found - {""}


def room(name: str) -> str:
    first = name.split(".")[0]
    return first if first in ROOMS else "model"


def allowed(importer: str, imported: str) -> bool:
    """The import rules, one line a room."""
    here, there = room(importer), room(imported)
    if here == "course":
        return True
    if (importer, imported) == TO_PIECES:
        return True
    if there == "course" or imported in JOINTS:
        joined = imported in JOINTS - {"__main__"} and importer in JOINTS
        return joined and there != "course"
    if (importer, imported) == DOOR:
        return True
    if here in {"gpus", "replay"}:
        return there == here or imported in LEAVES
    if importer in LEAVES:
        return imported in LEAVES
    if importer in JOINTS or here == "parallel":
        return True
    return there == "model"


@by_name(MODULES)
def test_imports_stay_inside_their_room(path):
    wrong = {n for n in own_imports(path) if not allowed(dotted(path), n)}
    assert not wrong, f"{dotted(path)} may not import {sorted(wrong)}"


def test_the_import_rules_refuse_what_they_should():
    assert not allowed("moe", "parallel.dispatch")
    assert not allowed("gpus.comm", "layers")
    assert not allowed("gpus.comm", "replay.tape")
    assert not allowed("replay.recorder", "gpus.comm")
    assert not allowed("replay.twin", "train")
    assert not allowed("parallel.shard", "train")
    assert not allowed("model", "step")
    assert allowed("train", "step")
    assert not allowed("generate", "course.labs.pieces")
    assert not allowed("__main__", "course.labs.pieces")
    assert not allowed("train", "course.assembly.command")
    assert not allowed("config", "layers")
    assert allowed("train", "parallel.shard")
    assert allowed("gpus.witness", "replay.recorder")
    assert allowed("parallel.dispatch", "moe")


def test_imports_make_no_circle():
    graph = {dotted(path): own_imports(path) - {dotted(path)} for path in MODULES}
    assert list(TopologicalSorter(graph).static_order())


@by_name([p for p in MODULES if dotted(p) not in WIRED])
def test_processes_are_joined_in_few_places(path):
    reached = [name for name in imports(path) if name.startswith("torch.distributed")]
    assert not reached, f"{dotted(path)} reaches for torch.distributed"
    assert "torch.distributed." not in ast.unparse(ast.parse(path.read_text()))


@by_name(MODULES + SCRIPTS)
def test_a_module_is_at_most_300_lines(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 300, f"{lines} lines: split it by responsibility"


@by_name(BROWSER)
def test_a_script_of_the_browser_is_at_most_300_lines(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 300, f"{lines} lines: split it by responsibility"


@by_name(TESTS)
def test_a_test_file_is_at_most_400_lines(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 400, f"{lines} lines: split it by what is tested"


@by_name(MODULES + SCRIPTS + TESTS)
def test_a_function_is_at_most_50_lines(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, kinds):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 50, f"{node.name} has {lines} lines"


@by_name(MODULES + SCRIPTS + TESTS)
def test_a_file_opens_with_one_sentence(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, "no module docstring"
    opening = docstring.split("\n\n")[0]
    assert opening.endswith((".", ":", "?")), opening


@by_name(
    [p for p in MODULES if p.name != "__init__.py" and room(dotted(p)) != "course"]
)
def test_a_module_names_its_chapter(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    chapter = re.search(r"^Chapter: (\w+)", docstring, re.MULTILINE)
    assert chapter and chapter[1] in PARTS, "no `Chapter:` line in the docstring"


@by_name(MODULES)
def test_sources_are_keys_of_the_bibliography(path):
    keys = set(
        re.findall(r"^@\w+\{(\w+),", (ROOT / "references.bib").read_text(), re.M)
    )
    for line in re.findall(r"^ *Source: (.+)$", path.read_text(), re.MULTILINE):
        named = {part.split(",")[0].strip() for part in line.split(";")}
        unknown = {n for n in named if re.fullmatch(r"\w*_\w*", n)} - keys
        first = line.split(",")[0].split(";")[0].strip()
        assert first in keys | {"course"}, f"{first!r} is not in references.bib"
        assert not unknown, f"not in references.bib: {sorted(unknown)}"


@by_name(MODULES)
def test_docstrings_do_not_say_the_obvious(path):
    empty = re.compile(r'"""(Forward pass|This (function|class|method)|Initiali[sz]es)')
    assert not empty.search(path.read_text())


def tracked_text() -> list[Path]:
    """Every text file that a clone holds."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    binary = {".png", ".ico", ".woff2", ".safetensors"}
    return [p for p in paths if p.is_file() and p.suffix not in binary]


@pytest.mark.parametrize(
    "pattern", [UNFINISHED, MACHINE], ids=["unfinished", "machine"]
)
def test_nothing_unfinished_and_no_path_of_a_machine(pattern):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in tracked_text()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def prose() -> Iterator[tuple[str, str]]:
    """Lines that a reader reads: pages, README and the text cells of the labs."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "chapters").rglob("*.md")]
    for page in sorted(pages):
        for number, line in enumerate(page.read_text().splitlines(), 1):
            yield f"{page.relative_to(ROOT)}:{number}", line
    for lab in sorted((ROOT / "solutions").glob("*.py")):
        for number, line in enumerate(lab.read_text().splitlines(), 1):
            if line.startswith("# "):
                yield f"{lab.relative_to(ROOT)}:{number}", line


def test_prose_has_no_filler():
    found = [f"{place}: {line}" for place, line in prose() if FILLER.search(line)]
    assert not found, "\n".join(found)


def test_cells_of_a_chapter_have_at_most_15_lines():
    for page in sorted((ROOT / "chapters").rglob("*.md")):
        for cell in re.findall(
            r"```\{code-cell\}.*?\n(.*?)```", page.read_text(), re.S
        ):
            code = [row for row in cell.strip().splitlines() if not row.startswith(":")]
            assert len(code) <= 15, f"{page.relative_to(ROOT)}: {code[0]}"


TOOLS = {
    "style": ["ruff", "check", "."],
    "layout": ["ruff", "format", "--check", "."],
    "spelling": ["codespell_lib", "."],
}


@pytest.mark.parametrize("command", TOOLS.values(), ids=TOOLS.keys())
def test_tools_are_content(command):
    ran = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
