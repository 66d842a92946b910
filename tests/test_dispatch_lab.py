"""Pictures of lab 5's dispatch show the rows and counts that are there."""

import re

from tiny_lm.course.figures import dispatch_lab
from tiny_lm.course.figures.style import Drawing

CHOSEN = {"a": [1, 0], "b": [1, 0]}


def words(drawing: Drawing) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)


def test_rows_are_drawn_by_expert_by_sender_and_by_expert_again():
    shown = words(dispatch_lab.stages(["a", "b"], CHOSEN, 2))
    at = shown.index("as they come, by sender")
    assert shown[at - 4 : at] == ["a for 0", "a for 1", "b for 0", "b for 1"]
    assert shown[at + 1 : at + 5] == ["a for 0", "b for 0", "a for 1", "b for 1"]


def test_a_rank_gets_what_all_send_to_it():
    shown = words(dispatch_lab.traffic([[1, 2], [10, 20]]))
    assert shown[shown.index("gets") + 1 :] == ["11", "22"]


def test_pictures_fit_a_phone():
    assert dispatch_lab.stages(["ab", "cd"], CHOSEN | {"c": [0], "d": [1]}, 2).narrow
    assert dispatch_lab.traffic([[67, 26, 22, 13]] * 4).narrow
