"""Which versions `make newest` asks for, and where it puts them."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import _versions  # noqa: E402


def test_what_is_held_has_its_tested_version():
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (line,) = _versions.held(["torch"], constraints)
    assert line.startswith("torch==") and line in constraints.splitlines()
    assert _versions.held([], constraints) == []
    with pytest.raises(ValueError, match="constraints.txt has no torchh"):
        _versions.held(["torchh"], constraints)


@pytest.mark.parametrize(
    ("which", "resolution"), [("newest", "highest"), ("oldest", "lowest-direct")]
)
def test_each_environment_is_its_own_and_takes_what_it_says(
    which, resolution, monkeypatch, tmp_path
):
    ran = []
    monkeypatch.setattr(_versions, "ROOT", tmp_path)
    monkeypatch.setattr(_versions.subprocess, "call", lambda c, **_: ran.append(c))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "an address")
    (tmp_path / "constraints.txt").write_text("# tested\ntorch==2.13.0\n")
    _versions.main([which, "--hold", "torch"])
    place = tmp_path / "_build" / f"{which}-versions"
    assert (place / "pins.txt").read_text() == "torch==2.13.0\n"
    assert all(str(place) in " ".join(command) for command in ran)
    _, _, install, tests = ran
    assert install[install.index("--resolution") + 1] == resolution
    assert tests[1:3] == ["-m", "pytest"]
    environ = _versions.installation(place, which, place / "pins.txt")[1]
    assert environ["UV_EXTRA_INDEX_URL"] == "an address"


def test_a_dry_run_installs_and_tests_nothing(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(_versions, "ROOT", tmp_path)
    monkeypatch.setattr(_versions.subprocess, "call", lambda c, **_: ran.append(c))
    (tmp_path / "constraints.txt").write_text("")
    _versions.main(["newest", "--dry-run"])
    assert len(ran) == 3 and ran[-1][-1] == "--dry-run"


def test_a_command_that_fails_ends_with_its_code():
    with pytest.raises(SystemExit, match="failed with exit code 3"):
        _versions.run([sys.executable, "-c", "raise SystemExit(3)"])
