"""How a command speaks, and how it ends.

Chapter: 06_together/full_model

    0    done
    1    something failed on the way: what, in words
    2    wrong use, in one line, before anything was started, written or lost
    130  stopped by Ctrl-C
    143  stopped by a SIGTERM, as queues and service managers send it
    141  whoever read the output has gone, as in `… | head`
"""

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """Somebody else than the keyboard stopped the program."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let a SIGTERM end what runs here as Ctrl-C does, with time for a last word."""

    def end(*_: object) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command; `--help` says the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def run(command: Callable[[], object]) -> int:
    """Run a command, say what went wrong, and return its exit code.

    Args:
        command: what it returns is the exit code if it is a number.
    """
    speak_anywhere()
    try:
        code = command()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        _say_nothing_more()
        return 141
    except KeyboardInterrupt as error:
        code = 143 if isinstance(error, Terminated) else 130
        return _end(code, ": ".join(["stopped", *map(str, error.args)]))
    except ValueError as error:
        return _end(2, f"error: {error}")
    except ImportError as error:
        return _end(1, f"error: {error}; `make` sets up what a command needs")
    except MemoryError:
        return _end(1, "error: the memory of this machine ran out")
    except (RuntimeError, OSError) as error:
        return _end(1, f"error: {error}")


def speak_anywhere() -> None:
    """Let a console that knows few characters show escapes in place of the others."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def readable(text: str, encoding: str | None) -> str:
    """The text with what this encoding does not know as escapes."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def write_bytes(content: bytes) -> None:
    """Put bytes on the output as they are, at once; a notebook gets text."""
    stream = sys.stdout
    if stream is None:
        raise BrokenPipeError
    stream.flush()
    raw = getattr(stream, "buffer", None)
    if raw is None:
        stream.write(content.decode(errors="replace"))
        return
    raw.write(content)
    raw.flush()


def _end(code: int, words: str) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(words, file=sys.stderr, flush=True)
    return code


def _say_nothing_more() -> None:
    """Python flushes once more at its end: into nothing, since nobody listens."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
