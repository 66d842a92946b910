"""`card-front`: what a chapter asks, what it gives, and what it needs.

    ```{card-front}
    **Question.** What does one large value do to the small ones?
    **You will be able to** say why a scale per tile is worth its bytes.
    **Code** `tiny_lm/fp8.py` · **Lab** 04, tasks 4.2-4.3
    ```

The card takes the colour of its part's technique, and its minutes are counted.
"""

import re
from copy import deepcopy
from pathlib import Path

import reading
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

TECHNIQUES = {"02_moe": "moe", "03_mla": "mla", "04_fp8": "fp8", "05_comm": "comm"}
BETWEEN_FACTS = re.compile(r"\s+·\s+")


class front_card(nodes.General, nodes.Element):
    """The box around the card's content."""


def technique(docname: str) -> str:
    """Which of the four techniques a page belongs to, or the baseline's grey."""
    part = docname.split("/")[1] if "/" in docname else ""
    return TECHNIQUES.get(part, "baseline")


def lines_of(paragraph: nodes.paragraph) -> list[nodes.paragraph]:
    """One paragraph for each source line that opens with a bold label."""
    lines: list[nodes.paragraph] = []
    for child in paragraph.children:
        after_break = not lines or lines[-1].astext().endswith("\n")
        if not lines or (isinstance(child, nodes.strong) and after_break):
            lines.append(nodes.paragraph())
        lines[-1] += deepcopy(child)
    return lines


def split_facts(line: nodes.paragraph) -> list[nodes.paragraph]:
    """The facts of a line, which a middle dot keeps apart."""
    facts = [nodes.paragraph()]
    for child in line.children:
        if not isinstance(child, nodes.Text):
            facts[-1] += child
            continue
        first, *others = BETWEEN_FACTS.split(child.astext())
        facts[-1] += nodes.Text(first)
        for other in others:
            facts.append(nodes.paragraph())
            facts[-1] += nodes.Text(other)
    return facts


def render_line(line: nodes.paragraph) -> nodes.Element:
    """A sentence stays a sentence; a row of facts becomes a list."""
    facts = split_facts(line)
    if len(facts) == 1:
        return line
    return nodes.bullet_list(
        "", *(nodes.list_item("", fact) for fact in facts), classes=["card-facts"]
    )


def add_fact(card: nodes.Element, words: str) -> None:
    """One more entry in the card's last row of facts, which is made if need be."""
    rows = [row for row in card.children if isinstance(row, nodes.bullet_list)]
    if not rows:
        rows = [nodes.bullet_list(classes=["card-facts"])]
        card += rows
    rows[-1] += nodes.list_item("", nodes.paragraph("", words))


class FrontCard(SphinxDirective):
    """The directive: parse the text, then lay its lines out."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        self.assert_has_content()
        parsed = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, parsed)
        card = front_card(technique=technique(self.env.docname))
        for block in parsed.children:
            is_text = isinstance(block, nodes.paragraph)
            card += (
                [render_line(line) for line in lines_of(block)] if is_text else block
            )
        minutes = reading.measure(Path(self.env.doc2path(self.env.docname))).minutes
        add_fact(card, f"{minutes} minute{'s' * (minutes != 1)}")
        return [card]


def open_card(writer, node: nodes.Element) -> None:
    label = 'aria-label="About this page" role="note"'
    writer.body.append(f'<div class="front-card {node["technique"]}" {label}>')


def close_card(writer, node: nodes.Element) -> None:
    writer.body.append("</div>")


def setup(app: Sphinx) -> None:
    app.add_node(front_card, html=(open_card, close_card))
    app.add_directive("card-front", FrontCard)
