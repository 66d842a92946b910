"""Bytes to learn from: a corpus, its split, and batches that any ranks can share.

Chapter: 01_baseline/probability_machine
Source: course

A token is one byte, so there are 256 of them, nothing has to be trained before the
model, and any text in any language can be read.
The default corpus is on every machine already: the source of Python's own standard
library, and the topic texts behind `help()`.
It differs a little between Python versions, so a run records its size and its hash.
"""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pydoc_data.topics import topics

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

Bytes = UInt8[Tensor, " _"]
VALIDATION_SHARE = 0.05

# Python 3.11 to 3.13 have them all, on every system. A package brings all its files.
MODULES = """
_collections_abc argparse ast asyncio base64 bdb calendar cmd code codecs collections
compileall concurrent configparser contextlib copy csv dataclasses datetime difflib dis
doctest email enum filecmp fileinput fractions ftplib functools gettext glob graphlib
gzip hashlib heapq hmac http importlib inspect ipaddress json linecache locale logging
lzma mimetypes numbers optparse os pathlib pdb pickle pickletools pkgutil platform
plistlib pprint profile pstats pydoc queue random re runpy sched selectors shelve shlex
shutil smtplib socket socketserver ssl statistics string subprocess tarfile tempfile
textwrap threading timeit tokenize tomllib trace traceback typing unittest urllib uuid
warnings wave weakref zipfile zoneinfo
""".split()


@dataclass(frozen=True)
class Document:
    """One text, and the name that decides which side of the split it falls on."""

    name: str
    text: bytes


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order; `skipped` names the files that are not text."""

    name: str
    documents: tuple[Document, ...]
    skipped: tuple[str, ...] = ()

    @cached_property
    def text(self) -> bytes:
        """All documents, one after the other, a line feed between two."""
        return _join(self.documents)

    @property
    def num_bytes(self) -> int:
        """Length of the whole text."""
        return len(self.text)

    @property
    def sha256(self) -> str:
        """Fingerprint of the whole text, in hexadecimal digits."""
        return hashlib.sha256(self.text).hexdigest()


def encode(text: str) -> Int[Tensor, " N"]:
    """The UTF-8 bytes of a text, one token each.

    Raises:
        ValueError: half of a surrogate pair, which UTF-8 cannot hold.
    """
    return torch.tensor(list(text.encode()), dtype=torch.int64)


def decode(tokens: Int[Tensor, " N"] | Bytes) -> str:
    """The text that the bytes spell.

    A model may stop within a character, or invent one: such bytes show as U+FFFD.

    Raises:
        ValueError: a token that is not a byte.
    """
    return bytes(tokens.tolist()).decode(errors="replace")


def default_corpus() -> Corpus:
    """The running Python's standard library and help topics, 5 to 6 MB."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = [file for name in MODULES for file in _module_files(folder, name)]
    sources = [_source(file, folder) for file in files]
    helps = [Document(f"topics/{name}", text.encode()) for name, text in topics.items()]
    documents = sorted(sources + helps, key=lambda document: document.name)
    return Corpus("python standard library", tuple(d for d in documents if d.text))


def _source(file: Path, folder: Path) -> Document:
    # Windows installs the same files with other line ends.
    text = file.read_bytes().replace(b"\r\n", b"\n")
    return Document(file.relative_to(folder).as_posix(), text)


def _module_files(folder: Path, name: str) -> list[Path]:
    single, package = folder / f"{name}.py", folder / name
    # Some systems leave the tests of a package out.
    files = [
        f for f in package.rglob("*.py") if "test" not in f.relative_to(folder).parts
    ]
    return [single] if single.is_file() else files


def load_corpus(path: str | Path) -> Corpus:
    """Any UTF-8 file, or all text files of a folder and the folders below it.

    In a folder, files that are not text are named in `Corpus.skipped`, hidden and
    empty ones passed over.

    Raises:
        ValueError: nothing there, nothing in it, no text, or no right to read it.
    """
    path = Path(path)
    if os.path.isdir(path):
        return _load_folder(path)
    if not os.path.exists(path):
        raise ValueError(f"no such file or folder: {path}")
    if not os.path.isfile(path):
        raise ValueError(f"neither a file nor a folder: {path}")
    text = _read_text(path)
    if not text:
        raise ValueError(f"empty file: {path}")
    return Corpus(path.name, (Document(path.name, text),))


def _load_folder(folder: Path) -> Corpus:
    documents, skipped, reason = [], [], "every file in it is empty or hidden"
    for file in sorted(_visible_files(folder)):
        name = file.relative_to(folder).as_posix()
        try:
            if text := _read_text(file):
                documents.append(Document(name, text))
        except ValueError as error:
            skipped.append(name)
            reason = str(error)
    if not documents:
        raise ValueError(f"no text in folder {folder}: {reason}")
    return Corpus(folder.resolve().name, tuple(documents), tuple(skipped))


def _visible_files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise ValueError(f"cannot read {error.filename}: {error.strerror}") from error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in files if not name.startswith("."))
        yield from (path for path in paths if path.is_file())


def _read_text(file: Path) -> bytes:
    try:
        text = file.read_bytes()
        text.decode()
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        where = f"byte 0x{text[error.start]:02x} at offset {error.start}"
        raise ValueError(f"not UTF-8 text: {file}, {where}") from error
    if (offset := text.find(b"\0")) >= 0:
        raise ValueError(f"binary file: {file} has a zero byte at offset {offset}")
    return text


def split(corpus: Corpus, min_bytes: int = 1) -> tuple[Bytes, Bytes]:
    """Training text, and about 5 % kept apart for validation.

    Whole documents: the end of a file one has learnt from is easier than a new file.
    They are taken in the order of their names' SHA-256, each that still fits into
    5 % of the bytes, so that the choice is the same everywhere.
    Where that gives less than half the share, as with one file alone, validation is
    the last 5 % of the text.

    Args:
        min_bytes: least length of either part: one sequence and the byte after it.

    Raises:
        ValueError: the text is too short for two parts of `min_bytes`.
    """
    if corpus.num_bytes < 2 * min_bytes:
        raise ValueError(
            f"{corpus.name} is too short: it has {corpus.num_bytes} bytes, "
            f"and training and validation need {min_bytes} each"
        )
    room = int(VALIDATION_SHARE * corpus.num_bytes)
    names = validation_names(corpus, room)
    kept = _join([d for d in corpus.documents if d.name in names])
    if len(kept) >= max(room // 2, min_bytes):
        train = _join([d for d in corpus.documents if d.name not in names])
        return _tokens(train), _tokens(kept)
    text = _tokens(corpus.text)
    cut = len(text) - max(room, min_bytes)
    return text[:cut], text[cut:]


def validation_names(corpus: Corpus, room: int) -> set[str]:
    """Names of whole documents of together at most `room` bytes, for validation."""
    names: set[str] = set()

    def by_hash(document: Document) -> bytes:
        return hashlib.sha256(os.fsencode(document.name)).digest()

    for document in sorted(corpus.documents, key=by_hash):
        if len(document.text) <= room:
            names.add(document.name)
            room -= len(document.text)
    return names


def _join(documents: tuple[Document, ...] | list[Document]) -> bytes:
    return b"\n".join(document.text for document in documents)


def _tokens(text: bytes) -> Bytes:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


class Batches:
    """Training batches: windows that start anywhere, drawn afresh at every step.

    A step of a seed is the same batch on every machine and for any number of
    ranks: rank r gets the r-th of `size` equal runs of its sequences.

    Raises:
        ValueError: a size is not positive, or the data is shorter than one sequence.
    """

    def __init__(
        self, tokens: Bytes, batch_size: int, seq_len: int, seed: int = 0
    ) -> None:
        if min(batch_size, seq_len) < 1:
            raise ValueError(f"{batch_size=} and {seq_len=} must be positive")
        if len(tokens) < seq_len + 1:
            raise ValueError(
                f"seq_len={seq_len} is longer than the data: {seq_len + 1} bytes are "
                f"wanted (one more, to predict), {len(tokens)} came"
            )
        self.batch_size, self.seed = batch_size, seed
        self.windows = tokens.unfold(0, seq_len + 1, 1)  # a view: it copies nothing

    def at(self, step: int, rank: int = 0, size: int = 1) -> Int[Tensor, "B_local T1"]:
        """The sequences of one rank at one step; the last byte is a target only.

        Raises:
            ValueError: `size` does not divide the batch, or there is no such rank.
        """
        if not 0 <= rank < size:
            raise ValueError(f"rank={rank} must lie between 0 and {size - 1}")
        if self.batch_size % size:
            raise ValueError(f"{size} ranks cannot share {self.batch_size} sequences")
        local = self._starts(step).chunk(size)[rank]
        return self.windows[local.to(self.windows.device)].long()

    def _starts(self, step: int) -> Int[Tensor, " B"]:
        # The CPU generator keeps 32 bits of its seed: a hash keeps (seed, step) apart.
        digest = hashlib.sha256(f"{self.seed}/{step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
        high, shape = len(self.windows), (self.batch_size,)
        return torch.randint(high, shape, generator=generator, device="cpu")


class EvalBatches(Batches):
    """Validation batches: the same windows every time, evenly spread over the text.

    Raises:
        ValueError: a size is not positive, or the data is shorter than one sequence.
    """

    def __init__(
        self, tokens: Bytes, batch_size: int, seq_len: int, num_batches: int
    ) -> None:
        super().__init__(tokens, batch_size, seq_len)
        if num_batches < 1:
            raise ValueError(f"{num_batches=} must be positive")
        last, count = len(self.windows) - 1, num_batches * batch_size
        starts = torch.linspace(0, last, count, dtype=torch.float64, device="cpu")
        self.starts = starts.long().view(num_batches, batch_size)

    def __len__(self) -> int:
        return len(self.starts)

    def _starts(self, step: int) -> Int[Tensor, " B"]:
        return self.starts[step]
