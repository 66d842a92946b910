"""Two works never stand in the text under one name and year."""

import sys
from collections import Counter
from pathlib import Path

from pybtex.database import parse_file
from sphinxcontrib.bibtex.plugin import find_plugin

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "_ext"))
import citations  # noqa: E402

WORKS = parse_file(str(ROOT / "references.bib")).entries


def shown(work) -> str:
    """What stands between the brackets: the work's name or its authors, and year."""
    names = [" ".join(p.last_names) for p in work.persons.get("author", [])]
    authors = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
    return f"{work.fields.get('shorthand', authors)}, {work.fields['year']}"


def test_citations_can_be_told_apart():
    counts = Counter(map(shown, WORKS.values()))
    assert not [words for words, number in counts.items() if number > 1]


def test_a_work_with_a_name_of_its_own_is_cited_by_it():
    citations.setup(None)
    style = find_plugin("sphinxcontrib.bibtex.style.referencing", "named_author_year")()
    template = style.person.author_or_editor_or_title(full=False)
    for key, name in (("deepseek_v3", "DeepSeek-V3"), ("gshard", "Lepikhin")):
        words = str(template.format_data({"entry": WORKS[key], "style": style}))
        assert words.startswith(name)
