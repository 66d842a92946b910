"""Shapes are checked in every process that the tests start, ranks included.

Python imports this file by itself at start-up where its folder is on PYTHONPATH.
A rank is a fresh process that knows nothing of pytest, so nothing later would reach
it in time: the hook must stand before the first `import tiny_lm`.
`tiny_lm.course` is left out: its checks hand over wrong answers on purpose.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import install_import_hook

PACKAGE = Path(__file__).resolve().parents[2] / "tiny_lm"


# The hook decorates methods one by one, where `Self` has no class to stand for yet.
CONFIG = BeartypeConf(hint_overrides=FrozenDict({Self: Any}))


def typechecked(function: Callable) -> Callable:
    """`beartype`, once the function is called.

    Preparing a check takes milliseconds, there are hundreds of functions, and most
    processes call few of them.
    """
    checked = None

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        nonlocal checked
        if checked is None:
            checked = beartype(conf=CONFIG)(function)
        return checked(*args, **options)

    return call


def checked_modules() -> list[str]:
    """Names of all modules and folders of the package but `course`."""
    parts = (path.stem for path in PACKAGE.iterdir() if path.name != "course")
    return sorted(f"tiny_lm.{part}" for part in parts if part.isidentifier())


install_import_hook(checked_modules(), "sitecustomize.typechecked")
