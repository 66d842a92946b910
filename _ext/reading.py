"""How long a page takes, from its source: words, shown lines of code, long sentences.

A careful first reading took a minute for 100 words or for 5 shown lines of code. Cells
whose code is folded and what stands in `after-lab` are not counted.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

WORDS_A_MINUTE, LINES_A_MINUTE = 100, 5
EXTENSIONS = ("amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist")
FOLDED = {"hide-input", "remove-input", "hide-cell", "remove-cell"}
UNREAD = {
    "after-lab",
    "bibliography",
    "course-map",
    "course-plan",
    "glue",
    "image",
    "toctree",
}
SILENT_ROLES = {"cite", "cite:p", "cite:t", "eq"}
DIRECTIVE = re.compile(r"\{([\w:-]+)\}\s*(.*)")
ROLE_TARGET = re.compile(r"\s*<[^>]*>$")
OPTION = re.compile(r"^:([\w-]+):\s*(.*)$")
# A full stop, what may close a quotation or a bracket, then a new beginning.
SENTENCE_END = re.compile(r"(?<=[.!?…])([\"'”’)\]]*)\s+(?=[^a-z])")
NOT_AN_END = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|approx|Fig|Eq|No|p)\.$")


@dataclass
class Reading:
    """What a reader meets on a page."""

    sentences: list[str] = field(default_factory=list)
    shown_lines: int = 0  # of code cells and fenced code
    included_lines: int = 0  # of `literalinclude`
    shown_code: list[str] = field(default_factory=list)  # the text of both

    @property
    def words(self) -> int:
        return sum(map(count_words, self.sentences))

    @property
    def minutes(self) -> int:
        code = self.shown_lines + self.included_lines
        return max(1, round(self.words / WORDS_A_MINUTE + code / LINES_A_MINUTE))

    def longer_than(self, words: int) -> list[str]:
        """Sentences of more words than that."""
        return [s for s in self.sentences if count_words(s) > words]


def count_words(text: str) -> int:
    """Whatever stands between spaces and holds a letter or a digit."""
    return sum(any(c.isalnum() for c in piece) for piece in text.split())


def measure(path: Path) -> Reading:
    """A page's words, lines and sentences; of a lab's source the text cells' alone."""
    text = path.read_text(encoding="utf-8")
    reading = Reading()
    if path.suffix == ".py":
        for cell in text_cells(text):
            _read(cell, path, reading)
        return reading
    if text.startswith("---\n"):
        text = text.split("\n---\n", 1)[1]
    _read(text, path, reading)
    return reading


def text_cells(source: str) -> Iterator[str]:
    """The Markdown cells of a script in the percent format."""
    for cell in re.split(r"^# %%", source, flags=re.MULTILINE)[1:]:
        head, _, body = cell.partition("\n")
        if head.strip() == "[markdown]":
            yield re.sub(r"^# ?", "", body, flags=re.MULTILINE)


@cache
def parser() -> MarkdownIt:
    """The book's own Markdown, as far as text goes."""
    extensions = {*EXTENSIONS, "dollarmath", "substitution"}
    return create_md_parser(
        MdParserConfig(enable_extensions=extensions), lambda _: RendererHTML()
    )


def _read(text: str, path: Path, reading: Reading) -> None:
    for token in parser().parse(text):
        if token.type == "inline":
            reading.sentences += sentences(plain(token))
        elif token.type in ("fence", "colon_fence"):
            _read_fence(token, path, reading)


def _read_fence(token: Token, path: Path, reading: Reading) -> None:
    found = DIRECTIVE.fullmatch(token.info.strip())
    if not found:
        _show(token.content, reading)
        return
    name, title = found.groups()
    options, body = split_options(token.content)
    if name == "code-cell":
        if not FOLDED & set(tags_of(options)):
            _show(body, reading)
    elif name == "literalinclude":
        code = included(path.parent / title, options)
        reading.included_lines += _lines(code)
        reading.shown_code.append(code)
    elif name not in UNREAD and not name.startswith("math"):
        if name.startswith(("admonition", "grid-item-card")):
            _read(title, path, reading)
        _read(body, path, reading)


def _show(code: str, reading: Reading) -> None:
    reading.shown_lines += _lines(code)
    reading.shown_code.append(code)


def split_options(content: str) -> tuple[dict, str]:
    """A directive's options, in either of their two forms, and the text after them."""
    if content.startswith("---\n"):
        head, _, body = content[4:].partition("\n---")
        return yaml.safe_load(head) or {}, body.lstrip("\n")
    lines, options = content.splitlines(), {}
    while lines and (found := OPTION.match(lines[0])):
        options[found[1]] = yaml.safe_load(found[2] or "''")
        lines.pop(0)
    return options, "\n".join(lines)


def tags_of(options: dict) -> list[str]:
    """The tags of a cell, from a list or from a text with commas."""
    tags = options.get("tags", [])
    return tags if isinstance(tags, list) else [t.strip() for t in tags.split(",")]


def included(path: Path, options: dict) -> str:
    """The code that a `literalinclude` shows."""
    text = path.read_text(encoding="utf-8")
    if "pyobject" not in options:
        return text
    body = ast.parse(text).body
    for name in str(options["pyobject"]).split("."):
        node = next(n for n in body if getattr(n, "name", None) == name)
        body = node.body
    return "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])


def _lines(code: str) -> int:
    return sum(bool(line.strip()) for line in code.splitlines())


def plain(token: Token) -> str:
    """The words of a paragraph; a formula and a piece of code are one word each."""
    return "".join(_plain(child) for child in token.children or [])


def _plain(token: Token) -> str:
    if token.type in ("softbreak", "hardbreak"):
        return " "
    if token.type == "text":
        return token.content
    if token.type in ("code_inline", "math_inline", "math_inline_double"):
        return "X"
    if token.type == "myst_role":
        name = token.meta["name"]
        if name in SILENT_ROLES:
            return ""
        if name in ("ref", "doc", "term"):
            words = ROLE_TARGET.sub("", token.content)
            return words[:1].upper() + words[1:]  # it may open a sentence
        return "X"
    return ""


def sentences(text: str) -> list[str]:
    """A paragraph cut into sentences, and a row of facts at its middle dots."""
    found: list[str] = []
    for fact in text.split(" · "):
        start = 0
        for end in SENTENCE_END.finditer(fact):
            if not NOT_AN_END.search(fact[start : end.start()]):
                found.append(fact[start : end.end()].strip())
                start = end.end()
        found.append(fact[start:].strip())
    return [sentence for sentence in found if count_words(sentence)]
