"""A command's words on any console, and its exit code in every way it can end."""

import io
import os
import subprocess
import sys

import pytest

from tiny_lm import console


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("--steps must be positive"), 2, "error: --steps must be positive"),
        (RuntimeError("rank 1 raised"), 1, "error: rank 1 raised"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (MemoryError(), 1, "error: the memory of this machine ran out"),
        (
            ModuleNotFoundError("No module named 'jupytext'"),
            1,
            "jupytext'; `make`",
        ),
        (KeyboardInterrupt(), 130, "stopped"),
        (KeyboardInterrupt("step 3 is kept"), 130, "stopped: step 3 is kept"),
        (console.Terminated(), 143, "stopped"),
    ],
)
def test_a_command_ends_in_one_line_and_a_code(error, code, words, capsys):
    assert console.run(lambda: _raise(error)) == code
    printed = capsys.readouterr()
    assert words in printed.err
    assert len(printed.err.splitlines()) == 1 and not printed.out


def test_a_command_that_works_ends_in_0():
    assert console.run(lambda: None) == 0


def test_wrong_arguments_are_one_line(capsys):
    parser = console.Parser(prog="python -m tiny_lm")
    parser.add_argument("--steps", type=int)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--steps", "many"])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: argument --steps: invalid int value: 'many' (see")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_text_can_be_shown_on_every_console(encoding, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    assert console.run(lambda: print("π \udcff \ufffd")) == 0
    shown = {"ascii": r"\u03c0", "latin-1": r"\u03c0", "utf-8": "π"}[encoding]
    assert raw.getvalue().decode(encoding).split()[0] == shown
    assert console.readable("π", encoding) == shown


def test_bytes_stay_as_they_are_and_a_notebook_gets_text(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    print("prompt", end="")
    console.write_bytes("π".encode()[:1])
    assert raw.getvalue() == b"prompt\xcf"
    monkeypatch.setattr(sys, "stdout", cell := io.StringIO())
    console.write_bytes("π".encode())
    assert cell.getvalue() == "π"


@pytest.mark.parametrize("program", ["print('x' * 10**6)", "print('x')"])
def test_a_reader_that_leaves_is_no_traceback(program):
    code = "import sys; from tiny_lm import console; sys.stdin.read(); sys.exit("
    code += f"console.run(lambda: {program}))"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ},
    ) as process:
        process.stdout.close()  # before a byte is written
        process.stdin.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (141, b"")
