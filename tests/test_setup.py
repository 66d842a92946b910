"""A newcomer's first command: what it says when something is missing."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import _setup  # noqa: E402


def test_an_old_python_can_read_the_script_that_refuses_it():
    ast.parse((ROOT / "_setup.py").read_text(), feature_version=(3, 6))


def test_an_old_python_is_refused_with_the_way_to_a_new_one(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match=r"is Python 3\.9; 3\.11 or newer is needed"):
        _setup.require_python()


def test_a_newer_python_beside_an_old_one_is_taken(monkeypatch, tmp_path):
    (tmp_path / "python3.12").touch(mode=0o755)
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(sys, "argv", ["_setup.py", "book"])
    monkeypatch.setenv("PATH", str(tmp_path))
    taken = []
    monkeypatch.setattr(os, "execv", lambda *call: taken.append(call) or sys.exit(0))
    with pytest.raises(SystemExit):
        _setup.require_python()
    newer = str(tmp_path / "python3.12")
    assert taken == [(newer, [newer, "_setup.py", "book"])]


def test_a_python_without_venv_names_the_package_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(_setup, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"apt install python3\.\d+-venv"):
        _setup.make_venv()
    assert not (tmp_path / ".venv").exists()


@pytest.fixture
def log(monkeypatch, tmp_path) -> Path:
    monkeypatch.setattr(_setup, "LOG", tmp_path / "setup.log")
    return tmp_path / "setup.log"


@pytest.mark.parametrize(
    "line, remedy",
    [
        ("Failed to establish a new connection: [Errno 111]", "Check the connection"),
        ("npm error code ENOTFOUND", "Check the connection"),
        ("OSError: [Errno 28] No space left on device", "free\nsome space"),
        ("No matching distribution found for torch==2.13.0", "PYTHON=python3.11"),
        ("something nobody has seen before", "all of it in .*setup.log"),
    ],
)
def test_a_failed_install_names_the_fix(log, line, remedy):
    code = f"print({line!r}); raise SystemExit(1)"
    with pytest.raises(SystemExit, match=remedy):
        _setup.follow([sys.executable, "-c", code])
    assert line in log.read_text()


def test_what_is_up_to_date_is_left_alone_in_silence():
    """This very test runs in the environment that `make test` made."""
    key = _setup.digest(_setup.PINS, str(ROOT))
    if not _setup.up_to_date(_setup.stamp_of("test"), key):
        pytest.skip("NOT TESTED, the environment is not what `make test` makes")
    ran = subprocess.run(
        [sys.executable, "_setup.py", "book"], cwd=ROOT, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_an_environment_of_another_folder_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setattr(_setup, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(_setup, "PYTHON", Path(sys.executable))
    (tmp_path / ".venv").mkdir()
    settings = tmp_path / ".venv" / "pyvenv.cfg"
    settings.write_text(f"command = python -m venv {tmp_path / '.venv'}\n")
    assert _setup.usable()
    settings.write_text("command = python -m venv /somewhere/else/.venv\n")
    assert not _setup.usable()


def test_a_second_setup_waits_for_the_first(monkeypatch, tmp_path):
    monkeypatch.setattr(_setup, "LOCK", tmp_path / "_build" / "setup.lock")
    second = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import _setup, pathlib\n"
        f"_setup.LOCK = pathlib.Path({str(_setup.LOCK)!r})\n"
        "with _setup.alone(): print('mine')"
    )
    with _setup.alone():
        other = subprocess.Popen(
            [sys.executable, "-c", second], stdout=subprocess.PIPE, text=True
        )
        assert other.stdout.readline().startswith("Another make is setting up")
        assert other.poll() is None
    assert other.communicate(timeout=60)[0] == "mine\n"


def test_make_lists_its_targets():
    ran = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True)
    targets = [line.split()[1] for line in ran.stdout.splitlines()]
    assert ran.returncode == 0 and {"book", "test", "lab"} <= set(targets)
