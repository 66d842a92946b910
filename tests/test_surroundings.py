"""What no file of the course may do: trust the wall clock, a console, a variable."""

import ast
import io
import json
import sys
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path

import pytest

from tiny_lm.gpus.output import Outlet, Screen

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "tiny_lm").rglob("*.py"))
ALL = [
    *PACKAGE,
    ROOT / "_setup.py",
    ROOT / "_versions.py",
    *sorted((ROOT / "_ext").glob("*.py")),
    *sorted((ROOT / "solutions").glob("*.py")),
]
# Which clocks jump when somebody sets the time, or once a year.
WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow"}
# Who looks at the environment, and for what; each has a test of a value that lies.
ENVIRONMENT = {
    "tiny_lm/gpus/rank.py",  # hands it on whole
    "tiny_lm/gpus/start.py",  # sets gloo's interface
    "tiny_lm/gpus/torchrun.py",  # believes what fits together
    "tiny_lm/course/labs/bootstrap.py",  # whether this is Colab
    "tiny_lm/course/labs/steps.py",
    "tiny_lm/course/labs/generator.py",  # hands it on whole
    "tiny_lm/course/labs/pieces.py",
    "tiny_lm/course/bench/grading.py",  # hands it on whole
    "tiny_lm/course/grade/command.py",  # one thread, unless somebody says otherwise
    "tiny_lm/course/grade/inside.py",  # sets what a lab's kernel reads
    "tiny_lm/course/grade/sandbox.py",  # empties it
}
# What two processes of ours say to each other: there a number may be none.
OURS = {("gpus", "comm.py"), ("grade", "channel.py")}


def by_name(paths: list[Path]) -> pytest.MarkDecorator:
    names = [path.relative_to(ROOT).as_posix() for path in paths]
    return pytest.mark.parametrize("path", paths, ids=names)


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, by what is called."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(call: ast.Call) -> dict[str, str]:
    return {k.arg: ast.unparse(k.value) for k in call.keywords if k.arg}


def names_no_encoding(name: str, call: ast.Call) -> bool:
    """A text file is read or written in whatever encoding this machine has."""
    owner, _, method = name.rpartition(".")
    if owner and method in {"read_text", "write_text"}:
        given = len(call.args) - (method == "write_text")
        return not given and "encoding" not in keywords(call)
    if method != "open" or name in {"os.open", "lzma.open", "zipfile.open"}:
        return False
    place = 1 if name == "open" else 0
    given = [a.value for a in call.args[place:] if isinstance(a, ast.Constant)]
    mode = keywords(call).get("mode", given[0] if given else "r")
    return "b" not in mode and "encoding" not in keywords(call)


@by_name(ALL)
def test_no_deadline_or_duration_hangs_on_the_wall_clock(path):
    source = path.read_text(encoding="utf-8")
    found = {ast.unparse(n) for n in ast.walk(ast.parse(source))} & WALL_CLOCKS
    assert not found, f"{found}: time.monotonic and time.perf_counter never jump"
    assert "from time import time" not in source


@by_name(ALL)
def test_a_text_file_is_utf_8_on_every_machine(path):
    found = [call.lineno for name, call in calls(path) if names_no_encoding(name, call)]
    assert not found, f"no encoding in lines {found}"


@by_name([path for path in PACKAGE if path.parts[-2:] not in OURS])
def test_what_is_no_number_is_never_written_as_json(path):
    wrong = [
        call.lineno
        for name, call in calls(path)
        if name in {"json.dumps", "json.dump"}
        and keywords(call).get("allow_nan") != "False"
    ]
    assert not wrong, f"json.dumps without allow_nan=False in lines {wrong}"


@by_name(PACKAGE)
def test_the_environment_is_looked_at_in_few_places(path):
    looks = {"os.environ", "os.getenv"} & {
        ast.unparse(node) for node in ast.walk(ast.parse(path.read_text("utf-8")))
    }
    assert not looks or path.relative_to(ROOT).as_posix() in ENVIRONMENT


def test_these_rules_see_what_they_should():
    def found(text: str) -> bool:
        call = ast.parse(text).body[0].value
        return names_no_encoding(ast.unparse(call.func), call)

    assert found("open(path)") and found("path.open('w')") and found("p.read_text()")
    assert found("path.write_text(text)") and found("open(path, mode='a')")
    assert not found("open(path, 'rb')") and not found("path.open('xb')")
    assert not found("path.read_text(encoding='utf-8')") and found("p.write_text(x)")
    assert not found("path.write_text(x, 'utf-8')") and not found("read_text(path)")


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", r"\u03c0"), ("utf-8", "π")])
def test_what_a_rank_prints_is_shown_on_every_console(encoding, shown, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    ours, theirs = Pipe(duplex=False)
    theirs.send_bytes("π\n".encode())
    Screen([Outlet(ours, "stdout", "rank 0: ", by_fd=False)]).show(everything=True)
    for end in (ours, theirs):
        end.close()
    assert raw.getvalue().decode(encoding) == f"rank 0: {shown}\n"


def test_json_of_the_package_is_what_others_read():
    from tiny_lm.files import to_json

    assert json.loads(to_json({"π": [1, None]})) == {"π": [1, None]}
