"""Citations that tell works of one team and year apart: "[DeepSeek-V3, 2024]".

A work's `shorthand` in `references.bib` stands in the text in place of its authors.
"""

from dataclasses import dataclass, field

from pybtex.style.template import Node, first_of, optional
from pybtex.style.template import field as entry_field
from sphinx.application import Sphinx
from sphinxcontrib.bibtex.plugin import register_plugin
from sphinxcontrib.bibtex.style.referencing import BracketStyle, PersonStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle


class NamedWork(PersonStyle):
    """What stands for the authors: the work's own name, where it has one."""

    def author_or_editor_or_title(self, full: bool) -> Node:
        authors = super().author_or_editor_or_title(full)
        return first_of[optional[entry_field("shorthand")], authors]


@dataclass
class NamedAuthorYear(AuthorYearReferenceStyle):
    """Author and year, or the work's own name and year; a semicolon between works."""

    bracket_parenthetical: BracketStyle = field(
        default_factory=lambda: BracketStyle(sep="; ")
    )
    person: PersonStyle = field(default_factory=NamedWork)


def setup(app: Sphinx) -> None:
    register_plugin(
        "sphinxcontrib.bibtex.style.referencing", "named_author_year", NamedAuthorYear
    )
