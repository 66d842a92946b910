"""Files: whole or not there, never somebody else's, and told by name when broken."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tiny_lm import files


def test_programs_that_ask_at_once_get_different_folders(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(files.claim_next, tmp_path, "tiny") for _ in range(40)]
    folders = {one.result().name for one in asked}
    assert folders == {f"tiny-{n}" for n in range(1, 41)}


def test_of_two_that_claim_one_folder_the_second_is_refused(tmp_path, monkeypatch):
    files.claim(tmp_path / "run", "metrics.jsonl")
    monkeypatch.setattr(os, "listdir", lambda _: [])  # both looked before either wrote
    with pytest.raises(ValueError, match="run was taken by another program just now"):
        files.claim(tmp_path / "run", "metrics.jsonl")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to .*file"):
        files.claim_next(tmp_path / "file", "tiny")
    with pytest.raises(ValueError, match="cannot write to .*file"):
        files.claim(tmp_path / "file", "metrics.jsonl")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "notes.txt"
    files.write_whole(path, "π")
    assert path.read_bytes() == "π".encode()

    def fail(draft):
        draft.write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        files.replace_whole(path, fail)
    assert path.read_bytes() == "π".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_json_has_no_nan(tmp_path):
    assert files.to_json({"loss": 1.5}) == '{"loss": 1.5}'
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            files.to_json({"loss": value})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": ', "a.json is cut short or no JSON"),
        (b"\xff", "a.json is not UTF-8 text"),
        (b"[" * 100_000, "a.json is cut short or no JSON"),
        (None, "cannot read .*a.json: No such file"),
    ],
)
def test_a_broken_file_is_named_with_its_fault(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        files.read_json(tmp_path / "a.json")


def test_text_is_utf_8_wherever_a_program_runs(tmp_path):
    program = (
        "import sys; from pathlib import Path; from tiny_lm import files\n"
        "path = Path(sys.argv[1]); files.write_whole(path, '\\u03c0')\n"
        "assert files.read_text(path) == '\\u03c0'"
    )
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    path = tmp_path / "pi.txt"
    subprocess.run(
        [
            sys.executable,
            "-X",
            "warn_default_encoding",
            "-W",
            "error",
            "-c",
            program,
            path,
        ],
        check=True,
        env={**os.environ, **plain},
    )
    assert path.read_bytes() == "π".encode()


def test_a_folder_gets_its_name_when_all_is_written_in_it(tmp_path):
    folder = tmp_path / "a" / "b"
    with files.whole_folder(folder) as draft:
        (draft / "text").write_text("all of it")
        assert not folder.exists()
    assert (folder / "text").read_text() == "all of it"
    assert [path.name for path in folder.parent.iterdir()] == ["b"]


def test_a_folder_that_is_not_finished_is_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.whole_folder(tmp_path / "a") as draft:
        (draft / "text").write_text("half of")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_not_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    with files.whole_folder(tmp_path / "empty") as draft:
        (draft / "text").write_text("new")
    for name, message in (
        ("empty", "empty is not empty: it holds text"),
        ("empty/text", "text is a file"),
        ("empty/text/deeper", "cannot write to .*deeper"),
    ):
        with pytest.raises(ValueError, match=message):
            with files.whole_folder(tmp_path / name):
                raise AssertionError("there was something already")
    assert (tmp_path / "empty" / "text").read_text() == "new"


def test_what_somebody_put_there_meanwhile_stays(tmp_path):
    folder = tmp_path / "a"
    with pytest.raises(OSError), files.whole_folder(folder) as draft:
        (draft / "text").write_text("late")
        folder.mkdir()
        (folder / "text").write_text("first")
    assert (folder / "text").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
