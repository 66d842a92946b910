"""A learner's page: what failed and why; and nothing that was written comes alive."""

import json
import re
from html.parser import HTMLParser

import grade_records as g
import pytest
import test_site
from test_site import AXE, OVERFLOW, axe, need

from tiny_lm.course.grade.feedback import feedback_page
from tiny_lm.course.grade.page import prose
from tiny_lm.course.grade.reports import write_reports
from tiny_lm.course.grade.results import read_results, result

browser = test_site.browser
ATTACKS = (
    "<script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "\"><svg onload=document.title='taken'>",
    "' autofocus onfocus='document.title=1",
    "</pre></details><iframe src=//example.com></iframe>",
    "</style><style>*{display:none}</style>",
    "<meta http-equiv=refresh content='0;url=//example.com'>",
    "`<script>document.title='taken'</script>`",
    "&lt;b&gt; \x00\x1b[31m \u202e gnp.exe \ud800",
)
WRITTEN = ("learner", "submission", "reason")
WRITTEN_IN_TASKS = ("on", "wanted", "got", "words", "printed", "report", "property")
ALLOWED = set(
    "html head meta title style body main h1 h2 h3 p div span bdi table thead tbody tr "
    "th td a b ul li dl dt dd pre code strong details summary section".split()
)


class Tags(HTMLParser):
    """What tags and attributes a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def attacked(text: str, **more: object) -> dict:
    """A record with this text wherever a learner's can stand."""
    hit = g.task("2.2", "failed", 0, **dict.fromkeys(WRITTEN_IN_TASKS, text))
    notes = [g.note("edited check", text, text), g.note(text, text, text)]
    whole = g.record("eve", g.task("2.1"), hit, notes=notes)
    return {**whole, **dict.fromkeys(WRITTEN, text), **more}


def of(record: dict) -> str:
    return feedback_page(result(record, "eve"))


@pytest.mark.parametrize("text", ATTACKS)
def test_a_page_has_only_the_tags_that_we_write(text, tmp_path):
    g.keep(tmp_path, g.record("ada"))
    (tmp_path / "results" / "eve.json").write_text(json.dumps(attacked(text)))
    (tmp_path / "results" / "mal.json").write_text(
        json.dumps(attacked(text, status="refused"))
    )
    pages = [path for path in write_reports(tmp_path) if path.suffix == ".html"]
    assert len(pages) == 4
    for path in pages:
        seen = Tags(path.read_text("utf-8"))
        assert seen.tags <= ALLOWED, (path, seen.tags - ALLOWED)
        assert not {a for a in seen.attributes if a.startswith("on") or a == "src"}


def test_nothing_comes_alive_in_a_browser_and_nobody_is_asked(browser, tmp_path):
    for number, text in enumerate(ATTACKS):
        record = json.dumps(attacked(text))
        g.keep(tmp_path).joinpath("results", f"{number}.json").write_text(record)
    asked, titles = [], set()
    pages = [path for path in write_reports(tmp_path) if path.suffix == ".html"]
    tab = browser.new_page()
    tab.on("request", lambda request: asked.append(request.url))
    for path in pages:
        tab.goto(path.as_uri())
        titles.add(tab.title())
        assert tab.locator("h1").is_visible()
    assert titles == {"Feedback, lab 02_moe", "Class summary, lab 02_moe"}
    assert sorted(asked) == sorted(path.as_uri() for path in pages)


def test_pages_are_readable_for_all(browser, tmp_path):
    need(AXE.is_file(), "axe", "run `make test`")
    g.keep(tmp_path, *g.a_class(8), g.refused("eve", "x" * 300), attacked("<b>" * 99))
    write_reports(tmp_path)
    for scheme, width in (("light", 1280), ("dark", 375)):
        size = {"width": width, "height": 900}
        tab = browser.new_page(color_scheme=scheme, viewport=size)
        for name in ("summary", "feedback/learner-03", "feedback/eve"):
            tab.goto((tmp_path / f"{name}.html").as_uri())
            tab.evaluate(AXE.read_text("utf-8"))
            assert not tab.evaluate(OVERFLOW), (name, width)
            assert not axe(tab), (name, scheme)
        tab.close()


def test_a_sentence_may_hold_code_and_nothing_else():
    assert prose("set `top_k`, not *k*") == "set <code>top_k</code>, not *k*"
    assert prose("`<b>` & `b`") == "<code>&lt;b&gt;</code> &amp; <code>b</code>"


def test_a_page_forbids_scripts_and_other_servers():
    policy = re.search(r'Security-Policy" content="([^"]*)"', of(g.record("ada")))[1]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")
    assert "script" not in policy


def test_signs_that_turn_or_hide_text_are_replaced():
    html = of(g.record("ada\u202edoog", g.task("2.1", "failed", printed="a\x07b")))
    assert not re.search("[\u202a-\u202e\x00-\x08]", html)
    assert "ada\ufffddoog" in html and "a\ufffdb" in html


def test_a_failure_is_told_with_its_property_input_words_and_hint():
    html = of(g.record("ada", g.task("2.1", "failed", 1, lab="passed")))
    for said in (
        "What does not hold: <strong>best first</strong>",
        '<pre tabindex="0">3 tokens, 4 experts</pre>',
        '<pre tabindex="0">[0, 1]\n[2, 3]</pre>',
        '<pre tabindex="0">[1, 0]\n[2, 3]</pre>',
        "The order was lost: best first is asked for.",
        "Which argument of topk sorts?",
        "1 of 3 hold",
        "<li><b>✓</b>scores are sigmoids of dot products</li>",
        "<li><b>✗</b>best first</li>",
        "<li><b>–</b>any sizes</li>",
        "The check in the lab accepts this answer.",
    ):
        assert said in html, said


@pytest.mark.parametrize(
    "status, said",
    [
        ("not done", "The stub still stands"),
        ("missing", "No answer to this task was found"),
        ("error", "does not run, so nothing could be checked"),
        ("timeout", "ran longer than the limit"),
        ("stopped", "ended before it answered"),
        ("what is this", "not graded"),
    ],
)
def test_every_status_has_its_words(status, said):
    html = of(g.record("ada", g.task("2.1", status), g.task("2.2")))
    assert said in html and "2 of 4 points" in html


def test_a_notebook_that_could_not_be_read_says_why_and_lists_no_tasks():
    html = of(g.refused("eve", "This file is no notebook: it is empty."))
    assert "This file is no notebook: it is empty." in html
    assert "0 of 8 points" in html and "Your tasks" not in html


def test_a_page_does_not_tell_the_seed_of_the_hidden_inputs():
    assert "8675309" not in of(g.record("ada", seed=8675309))


def test_a_page_names_nobody_else(tmp_path):
    g.keep(tmp_path, g.record("ada"), g.record("grace"))
    write_reports(tmp_path)
    assert "grace" not in (tmp_path / "feedback" / "ada.html").read_text()


def test_results_of_nothing_of_two_labs_or_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no results: grade a folder"):
        read_results(tmp_path)
    g.keep(tmp_path, g.record("ada"), g.record("bob", lab="03_mla"))
    with pytest.raises(ValueError, match="02_moe, 03_mla: one folder a lab"):
        read_results(tmp_path)
    (tmp_path / "results" / "bob.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"bob\.json is no record of the grader"):
        read_results(tmp_path)
