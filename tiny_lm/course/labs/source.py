"""A function of a notebook as text that runs on its own.

Chapter: index
Source: course

A function in a notebook leans on names from other cells: imports, helpers, numbers.
Here they are found in the function's symbol table and written above it, so that the
text runs in an empty namespace. What cannot be written down is named.
"""

import ast
import builtins
import importlib
import inspect
import linecache
import symtable
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

PLAIN = (int, float, complex, str, bytes, bool, type(None))


class NotSelfContained(ValueError):
    """A function that cannot be carried to another notebook, and what to do."""


def self_contained(function: Callable[..., Any]) -> tuple[str, list[str]]:
    """The function's source with all it needs above it.

    Returns:
        source: runs in an empty namespace.
        carried: the names from other cells that were written down with it, imports
            left out.

    Raises:
        NotSelfContained: no source is to be had, or a name holds what cannot be
            written down, or is not defined at all.
    """
    if not isinstance(function, FunctionType):
        raise NotSelfContained(f"only a function can be kept, not {function!r}")
    if function.__closure__:
        names = ", ".join(function.__code__.co_freevars)
        raise NotSelfContained(
            f"{function.__name__} was made inside another function and uses its {names}"
        )
    parts = _Parts(function)
    return parts.text(), parts.carried


def source_of(function: FunctionType) -> str:
    """The text of one function, as it stood when its cell ran.

    Raises:
        NotSelfContained: Python does not know it.
    """
    linecache.checkcache(function.__code__.co_filename)
    try:
        text = textwrap.dedent(inspect.getsource(function))
        ast.parse(text)
    except (OSError, TypeError, SyntaxError) as error:
        raise NotSelfContained(
            f"Python does not know the text of {function.__name__}: write it with "
            "`def` in a cell of its own, without a %% line"
        ) from error
    return text


def run_alone(source: str, name: str) -> Callable[..., Any]:
    """What `name` is after the source ran in an empty namespace."""
    filename = f"<piece {name}>"
    lines = source.splitlines(keepends=True)
    linecache.cache[filename] = (len(source), None, lines, filename)
    namespace: dict[str, Any] = {"__name__": f"piece_{name}"}
    exec(compile(source, filename, "exec"), namespace)
    return namespace[name]


class _Parts:
    """Imports, values and helpers that a function needs, found one after another."""

    def __init__(self, function: FunctionType) -> None:
        self.imports: set[str] = set()
        self.values: dict[str, str] = {}
        self.functions: dict[str, str] = {}
        self._add_function(function)
        self.carried = [*self.values, *list(self.functions)[1:]]

    def text(self) -> str:
        """Imports, then values, then helpers, the function last."""
        blocks = ["\n".join(sorted(self.imports)), "\n".join(self.values.values())]
        blocks += [text.strip() for text in reversed(self.functions.values())]
        return "\n\n\n".join(block for block in blocks if block) + "\n"

    def _add_function(self, function: FunctionType) -> None:
        text = source_of(function)
        self.functions[function.__name__] = text
        for name in _names_from_outside(text):
            if name in function.__globals__:
                self._add(name, function.__globals__[name])
            elif not hasattr(builtins, name):
                raise NotSelfContained(
                    f"{function.__name__} uses {name}, which no cell defines"
                )

    def _add(self, name: str, value: Any) -> None:
        if name in self.functions or name in self.values:
            return
        if line := _import_line(name, value):
            self.imports.add(line)
        elif isinstance(value, PLAIN):
            self.values[name] = f"{name} = {value!r}"
        elif isinstance(value, FunctionType) and value.__name__ == name:
            self._add_function(value)
        else:
            raise NotSelfContained(
                f"the function uses {name}, a {type(value).__name__} from another "
                f"cell: hand it over as an argument, or make it inside the function"
            )


def _names_from_outside(text: str) -> list[str]:
    """Names that the code reads and nothing in it binds."""
    module = symtable.symtable(text, "<piece>", "exec")
    outside = {
        symbol.get_name()
        for table in _tables(module)
        for symbol in table.get_symbols()
        if symbol.is_referenced() and symbol.is_global()
    }
    outside |= {
        symbol.get_name()
        for symbol in module.get_symbols()
        if symbol.is_referenced() and not symbol.is_assigned()
    }
    own = {s.get_name() for s in module.get_symbols() if s.is_assigned()}
    return sorted(outside - own)


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _tables(child)


def _import_line(name: str, value: Any) -> str:
    """The import that gives this value, or nothing if it came from a cell."""
    if isinstance(value, ModuleType):
        whole = value.__name__
        return f"import {whole}" if whole == name else f"import {whole} as {name}"
    home, own = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if home in (None, "__main__", "builtins") or "." in own or not own:
        return ""
    for module in (home.split(".")[0], home):  # einops.rearrange, not einops.einops
        if _exported(module, own) is value:
            return f"from {module} import {own}" + f" as {name}" * (own != name)
    return ""


def _exported(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
