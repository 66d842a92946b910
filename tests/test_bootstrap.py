"""The first cell of a lab: finds the course, and asks for nothing that is there."""

import sys
from pathlib import Path

import pytest

from tiny_lm.course import bootstrap

ROOT = Path(__file__).resolve().parents[1]


def test_the_course_is_found_from_a_folder_inside_it(monkeypatch):
    monkeypatch.chdir(ROOT / "labs")
    assert bootstrap.find_course() == ROOT


def test_no_course_is_found_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bootstrap.find_course() is None


def test_what_is_installed_counts_as_installed():
    assert {"torch", "numpy"} <= bootstrap.installed()


def test_outside_colab_it_says_what_it_found(capsys):
    bootstrap.set_up(repository="", tag="")
    assert "Ready: tiny_lm in" in capsys.readouterr().out


def test_a_copy_without_an_address_says_how_to_bring_the_course(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    with pytest.raises(RuntimeError, match="does not know where the course lives"):
        bootstrap.set_up(repository="", tag="")
