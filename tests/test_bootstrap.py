"""The first cell of a lab: at home it looks, on Colab it installs and says what."""

import subprocess
import sys
from pathlib import Path

import pytest

from tiny_lm.course.labs import bootstrap
from tiny_lm.course.labs import generator as labs

ROOT = Path(__file__).resolve().parents[1]


class Calls(list):
    """Commands that would have been run; those that contain `fail` do fail.

    held: what the constraints said, a file that is gone afterwards
    """

    fail = held = ""


@pytest.fixture
def calls(monkeypatch):
    made = Calls()

    def run(command, **_):
        command = [str(part) for part in command]
        made.append(command)
        if "--constraint" in command:
            file = Path(command[command.index("--constraint") + 1])
            made.held = file.read_text()
        code = int(bool(made.fail) and made.fail in command)
        return subprocess.CompletedProcess(command, code, "", "no such thing")

    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    return made


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A folder that looks like the course, one level below the working folder."""
    folder = tmp_path / "anything"
    (folder / "tiny_lm" / "course").mkdir(parents=True)
    (folder / "labs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


def test_at_home_nothing_is_installed(calls, capsys):
    bootstrap.set_up(repository="", tag="v1")
    assert calls == []
    assert "Ready: tiny_lm in" in capsys.readouterr().out


def test_at_home_without_the_course_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="make lab"):
        bootstrap.set_up(repository="", tag="v1")


def test_on_colab_the_unpacked_course_is_installed_under_colabs_own_versions(
    calls, course, monkeypatch, capsys
):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    bootstrap.set_up(repository="", tag="v1")
    (pip,) = calls
    assert pip[1:4] == ["-m", "pip", "install"]
    assert pip[-2:] == ["--editable", str(course)]
    assert f"torch=={bootstrap.version('torch')}\n" in calls.held
    assert f"numpy=={bootstrap.version('numpy')}\n" in calls.held
    assert not Path(pip[pip.index("--constraint") + 1]).exists()
    assert Path.cwd() == course / "labs"
    told = capsys.readouterr().out
    assert "Kept: torch" in told and "Installed: nothing" in told


def test_what_was_installed_is_named(calls, course, monkeypatch, capsys):
    states = iter([{"torch"}, {"torch", "einops"}])
    monkeypatch.setattr(bootstrap, "installed", lambda: next(states))
    bootstrap.install(course)
    assert "Installed: einops" in capsys.readouterr().out


def test_what_is_installed_counts_as_installed():
    assert {"torch", "numpy"} <= bootstrap.installed()


def test_a_failed_installation_shows_what_pip_said(calls, course):
    calls.fail = "pip"
    with pytest.raises(RuntimeError, match="no such thing"):
        bootstrap.install(course)


def test_without_an_address_colab_is_told_to_upload(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    with pytest.raises(RuntimeError, match="Upload the course's folder"):
        bootstrap.set_up(repository="", tag="v1")


def test_the_labs_own_version_is_fetched_and_else_the_newest(
    calls, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    address = "https://example.org/course"
    assert bootstrap.fetch_course(address, "v1") == tmp_path / "course"
    assert calls[0][-4:] == ["--branch", "v1", address, str(tmp_path / "course")]
    calls.fail = "--branch"
    bootstrap.fetch_course(address, "v1")
    assert "--branch" not in calls[-1]
    assert "taking the newest" in capsys.readouterr().out
    calls.fail = address
    with pytest.raises(RuntimeError, match="git could not fetch"):
        bootstrap.fetch_course(address, "v1")
    (tmp_path / "course").mkdir()
    with pytest.raises(RuntimeError, match="course is there, and no course in it"):
        bootstrap.fetch_course(address, "v1")


def test_the_course_is_found_here_above_and_one_below(course, monkeypatch):
    for place in (course.parent, course, course / "labs"):
        monkeypatch.chdir(place)
        assert bootstrap.find_course() == course
    monkeypatch.chdir(ROOT / "labs")
    assert bootstrap.find_course() == ROOT


def test_no_course_is_found_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bootstrap.find_course() is None


def test_a_package_that_colab_lacks_is_not_held(monkeypatch):
    monkeypatch.setattr(bootstrap, "KEPT", ("torch", "no_such_package"))
    assert list(bootstrap.kept()) == ["torch"]


def test_the_cell_runs_on_its_own(tmp_path):
    """It is all a learner has before anything is installed."""
    code = labs.bootstrap_cell().source
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert "Ready: tiny_lm in" in ran.stdout


def test_the_address_comes_from_the_project_file(tmp_path, monkeypatch):
    monkeypatch.setattr(labs, "ROOT", tmp_path)
    project = '[project]\nversion = "2.3"\n'
    (tmp_path / "pyproject.toml").write_text(project)
    last = labs.bootstrap_cell().source.splitlines()[-1]
    assert last == "set_up(repository='', tag='v2.3')"
    urls = '[project.urls]\nRepository = "https://example.org/course"\n'
    (tmp_path / "pyproject.toml").write_text(project + urls)
    last = labs.bootstrap_cell().source.splitlines()[-1]
    assert last == "set_up(repository='https://example.org/course', tag='v2.3')"
