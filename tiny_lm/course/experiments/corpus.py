"""Tens of megabytes of real text that everybody has: the libraries of the course.

Chapter: 02_moe/conditional_computation
Source: course

The default corpus, Python's standard library, is too short for runs of tens of
millions of tokens. The environment holds more: `constraints.txt` pins every library,
so its Python files are the same for everyone and nothing has to be fetched.
Tests are left out, for they repeat one another, and so are files that were generated.
"""

import json
import lzma
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tiny_lm.data import Corpus, Document
from tiny_lm.files import to_json

DISTRIBUTIONS = """
torch sympy numpy sqlalchemy matplotlib networkx fonttools pygments sphinx ipython
docutils mpmath tornado rich prompt_toolkit jedi
""".split()
SHORT = ("docutils",)  # for a smoke test

MAX_FILE_BYTES = 100_000  # longer ones are mostly tables
# The build writes these: they name a compiler, a commit or a platform.
WRITTEN_BY_BUILDS = {"version.py", "_version.py", "__config__.py"}
GENERATED = re.compile(
    rb"do not edit|auto-?generated|automatically generated|generated (by|from)", re.I
)


@dataclass(frozen=True)
class Sources:
    """A corpus, and the version of each library that it was read from."""

    corpus: Corpus
    versions: dict[str, str]


def gather(distributions: tuple[str, ...] | list[str] = DISTRIBUTIONS) -> Sources:
    """The Python files of installed libraries, each text once.

    Raises:
        ValueError: a library is not installed.
    """
    texts: dict[bytes, str] = {}
    versions = {}
    for name in sorted(distributions):
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            raise ValueError(
                f"the corpus needs {name}, which is not installed here: "
                "`make experiments` sets it up"
            ) from error
        versions[name] = distribution.version
        for path in sorted(distribution.files or (), key=str):
            if _wanted(path) and (text := _text(Path(path.locate()))):
                texts.setdefault(text, path.as_posix())
    documents = sorted(
        (Document(name, text) for text, name in texts.items()), key=lambda d: d.name
    )
    return Sources(Corpus("python libraries", tuple(documents)), versions)


def _wanted(path: metadata.PackagePath) -> bool:
    inside = path.suffix == ".py" and ".." not in path.parts
    tests = any("test" in folder for folder in path.parts[:-1])
    return inside and not tests and path.name not in WRITTEN_BY_BUILDS


def _text(file: Path) -> bytes:
    """What the file says; nothing if it is too long, generated or not UTF-8."""
    text = file.read_bytes().replace(b"\r\n", b"\n")
    if len(text) > MAX_FILE_BYTES or GENERATED.search(text[:1000]):
        return b""
    try:
        text.decode()
    except UnicodeDecodeError:
        return b""
    return text


def pack(sources: Sources, path: Path) -> None:
    """Write a corpus as one compressed file, for a machine with other libraries.

    Raises:
        ValueError: there is a file of that name, or none can be written.
    """
    corpus = sources.corpus
    about = {
        "name": corpus.name,
        "versions": sources.versions,
        "documents": [[d.name, len(d.text)] for d in corpus.documents],
        "sha256": corpus.sha256,
    }
    try:
        with lzma.open(path, "xb") as file:  # what is there already stays
            file.write(to_json(about).encode() + b"\n")
            for document in corpus.documents:
                file.write(document.text)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from error


def unpack(path: Path) -> Sources:
    """Read what `pack` wrote, document by document.

    Raises:
        ValueError: no such file, or it is not a packed corpus.
    """
    try:
        with lzma.open(path) as file:
            about = json.loads(file.readline())
            documents = tuple(
                Document(name, file.read(length)) for name, length in about["documents"]
            )
        sources = Sources(Corpus(about["name"], documents), about["versions"])
        whole = sources.corpus.sha256 == about["sha256"]
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (lzma.LZMAError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a packed corpus: {error}") from error
    if not whole:
        raise ValueError(f"{path} is not a packed corpus: its SHA-256 differs")
    return sources
