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
    """Names of the modules that promise a shape, but for those of `course`.

    The others would only get slower: a replay calls its small functions a million
    times, and no argument of theirs is a tensor.
    """
    names = []
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if "course" not in parts and "from jaxtyping import" in path.read_text():
            names.append(".".join(parts))
    return sorted(names)


install_import_hook(checked_modules(), "sitecustomize.typechecked")
