"""What a reader opens when it is time: answers to questions, and code after a lab.

    :::{after-lab} 1.6
    ```{literalinclude} ../../tiny_lm/generate.py
    :pyobject: next_byte_probabilities
    ```
    :::

Both are the browser's own fold, with its question as the words that a screen reader
says, and need no script. An answer is an `admonition` of the class `dropdown`.
"""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective


class fold(nodes.General, nodes.Element):
    """A closed box: its first child is what stands on it."""


class fold_title(nodes.General, nodes.TextElement):
    """The line that opens and closes a fold."""


class AfterLab(SphinxDirective):
    """Code that a lab asks for, folded until the learner has written it."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        self.assert_has_content()
        tasks = self.arguments[0]
        kind = "tasks" if any(mark in tasks for mark in (",", "-", "and")) else "task"
        title = f"After the lab ({kind} {tasks}): our code"
        box = fold("", fold_title(title, title), kind="after-lab")
        self.state.nested_parse(self.content, self.content_offset, box)
        return [box]


class FoldAnswers(SphinxPostTransform):
    """Make a fold of each admonition of the class `dropdown`."""

    default_priority = 200
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for box in list(self.document.findall(nodes.admonition)):
            if "dropdown" in box["classes"]:
                title, *answer = box.children
                words = fold_title("", "", *title.children)
                box.replace_self(fold("", words, *answer, kind="question"))


def open_fold(writer: Any, node: nodes.Element) -> None:
    writer.body.append(f'<details class="fold {node["kind"]}">')


def close_fold(writer: Any, node: nodes.Element) -> None:
    writer.body.append("</div></details>")


def open_title(writer: Any, node: nodes.Element) -> None:
    writer.body.append("<summary>")


def close_title(writer: Any, node: nodes.Element) -> None:
    writer.body.append('</summary><div class="folded">')


def setup(app: Sphinx) -> None:
    app.add_node(fold, html=(open_fold, close_fold))
    app.add_node(fold_title, html=(open_title, close_title))
    app.add_directive("after-lab", AfterLab)
    app.add_post_transform(FoldAnswers)
