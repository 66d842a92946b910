"""Shapes are checked in every process that the tests start, ranks included.

Python imports this file by itself at start-up where its folder is on PYTHONPATH.
A rank is a fresh process that knows nothing of pytest, so nothing later would reach
it in time: the hook must stand before the first `import tiny_lm`.
`tiny_lm.course` is left out: its checks hand over wrong answers on purpose.
"""

from pathlib import Path
from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import install_import_hook

PACKAGE = Path(__file__).resolve().parents[2] / "tiny_lm"


# The hook decorates methods one by one, where `Self` has no class to stand for yet.
typechecked = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: Any})))


def checked_modules() -> list[str]:
    """Names of all modules and folders of the package but `course`."""
    parts = (path.stem for path in PACKAGE.iterdir() if path.name != "course")
    return sorted(f"tiny_lm.{part}" for part in parts if part.isidentifier())


install_import_hook(checked_modules(), "sitecustomize.typechecked")
