"""The report to show around: nothing breaks out of it, nothing runs off it."""

import math
import re
from html.parser import HTMLParser

import pytest

from tiny_lm.course.checks.task import TASKS, tasks_of
from tiny_lm.course.figures.style import INK, shown_texts
from tiny_lm.course.report import page, panels, picture
from tiny_lm.course.report.facts import Report, Rung, percent

NASTY = (
    "<script>alert(1)</script> & \"q\" 'a' $x$ \x07 \x1b[31m 日本 é\ttab " + "w" * 90
)
NAMES = ("dense", "+ experts", "+ latents", "+ FP8", "+ overlap")
TECHNIQUES = ("baseline", "moe", "mla", "fp8", "comm")


def rung(number, cost=1.0):
    return Rung(
        name=NAMES[number],
        technique=TECHNIQUES[number],
        losses=[5.0 - 0.1 * step for step in range(12)],
        val_loss=2 * math.log(2),
        stored=1_600_000,
        active=820_000,
        flops=5.2e6,
        cache_bytes=640,
        memory_bytes=13.2e6,
        wire_bytes=7300.0,
        parts_us=(50.0, 4.5, 0.5),
        cost=cost,
    )


def a_report(by="", text="ab", pieces=(("moe.gate", True), ("fp8.linear", False))):
    return Report(
        by=by,
        rungs=[rung(n, math.inf if n == 2 else 0.8) for n in range(5)],
        credits={"moe": 0.62, "mla": 1.0, "fp8": 1.26, "comm": 1.23},
        pieces=pieces,
        load=[[1.0] * 16, [0.0, 4.0] * 8],
        prompt="def ",
        text=text,
        setting="40 steps on 4 emulated GPUs",
    )


class Tags(HTMLParser):
    """Which tags are open, and what text the page shows."""

    VOID = {"meta", "img", "br", "use", "path", "rect"}

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], set(), ""

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(text):
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    return tags


def test_numbers_are_those_of_the_rungs():
    report = a_report()
    assert report.rungs[0].bits == pytest.approx(2)
    assert report.rungs[0].token_us == 55
    head, rows = report.columns()
    assert all(len(row) == len(head) for row in rows)
    numbers = ["1.386", "2.00", "0.82 M", "5.2", "640", "13", "7.3", "55", "80%"]
    assert rows[0] == ["dense", *numbers]
    assert [row[-1] for row in rows][:3] == ["80%", "80%", "not reached"]
    assert percent(1.234) == "123%"


def test_title_counts_the_learners_pieces_and_says_where_there_are_none():
    assert a_report().title == "A language model, 1 of its 2 pieces are mine"
    assert "pieces are Ada's" in a_report(by=" Ada ").title
    theirs = a_report(by="Ada", pieces=[("moe.gate", False)])
    assert theirs.title == "A language model, of reference pieces"


def test_page_shows_any_text_as_text_and_closes_every_tag():
    text = page.as_html(a_report(by=NASTY, text=NASTY, pieces=[(NASTY, True)]))
    tags = read(text)
    assert "script" not in tags.seen
    assert "<script>alert(1)</script>" in tags.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", text)


def test_page_needs_nothing_from_elsewhere_and_follows_the_readers_mode():
    text = page.as_html(a_report())
    assert not re.findall(r"https?://(?!www\.w3\.org)", text)
    assert not re.findall(r"\b(?:src|url\((?!#)|@import|<link)", text)
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert INK not in text.replace("#222223", "")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) > 20
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_page_tells_whose_each_piece_is():
    text = page.as_html(a_report())
    assert "<li class=own>moe.gate</li>" in text
    assert re.search(r"<li>fp8\.linear <small>tiny_lm.s</small></li>", text)


def test_picture_is_a_png_and_all_words_stay_on_it(tmp_path):
    pieces = [(task.piece, n % 2 == 0) for n, task in enumerate(all_tasks())]
    report = a_report(by="W" * 70, text=NASTY * 30, pieces=pieces)
    picture.save(report, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    figure = picture.drawn(report)
    figure.draw_without_rendering()
    out = [
        text.get_text()
        for text in shown_texts(figure)
        if not figure.bbox.padded(2).contains(*text.get_window_extent().max)
        or not figure.bbox.padded(2).contains(*text.get_window_extent().min)
    ]
    assert out == []
    shown = {text.get_text() for text in figure.texts}
    assert {name for name, _ in pieces} <= shown


def all_tasks():
    for lab in ("01_baseline", "02_moe", "03_mla", "04_fp8", "05_comm"):
        tasks_of(lab)
    return [task for task in TASKS.values() if not task.piece.startswith("together")]


def test_a_character_that_the_typeface_lacks_is_a_dot():
    assert picture.in_font("a日é\n\x07", "DejaVu Sans Mono") == "a·é\n·"


def test_both_pages_are_written_and_others_replaced(tmp_path):
    folder = tmp_path / "new"
    page.write(a_report(text="first"), folder)
    pages = page.write(a_report(text="second"), folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "my_report.html",
        "my_report.png",
    ]
    assert "second" in pages.page.read_text(encoding="utf-8")
    assert "data:image/png;base64," in pages._repr_html_()


def test_a_folder_that_cannot_be_written_is_no_loss(tmp_path):
    (tmp_path / "file").write_text("in the way")
    pages = page.write(a_report(), tmp_path / "file")
    assert pages.page.is_file() and pages.page.parent != tmp_path / "file"
    assert (tmp_path / "file").read_text() == "in the way"


def test_pictures_say_in_words_what_they_ask():
    words = panels.svg(panels.credit, a_report())
    assert 'role="img" aria-label="By how many times' in words
