"""An explorer on a built page, driven by keyboard and mouse, against `tiny_lm`.

A miniature book with the course's settings, looked at with the system's Chromium:
without one these tests are skipped, and say so; where CI is set they fail instead.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import test_site
from playwright.sync_api import Page
from test_site import AXE, AXE_RUN, OVERFLOW, SILENT, THEME_FINDINGS, Visit

from tiny_lm.course import widgets
from tiny_lm.course.explorers import balance
from tiny_lm.course.explorers.balance import Setting, simulate

ROOT = Path(__file__).resolve().parents[1]
SHARED = (
    *("_config.yml", "_ext", "_static", "references.bib", "constraints.txt"),
    *("pyproject.toml", "node_modules", "tiny_lm"),
)
HEADER = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3}
---
"""
CELL = """# Explorers

```{code-cell} ipython3
:tags: [remove-input]
from tiny_lm.course import widgets
widgets.balance_explorer()
```
"""
TOC = "format: jb-book\nroot: chapters/index\nchapters: [{file: chapters/plain}]\n"
READY = ".explorer:not([data-busy])"

browser = test_site.browser  # a fixture
width = test_site.width
scheme = test_site.scheme


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A book of two pages: one has an explorer."""
    packages = ROOT / "node_modules"
    test_site.need(packages.is_dir(), "npm's browser files", "run `make book`")
    folder = tmp_path_factory.mktemp("explorers")
    for name in SHARED:
        (folder / name).symlink_to(ROOT / name)
    (folder / "chapters").mkdir()
    (folder / "chapters" / "index.md").write_text(HEADER + CELL)
    (folder / "chapters" / "plain.md").write_text("# A page without an explorer\n")
    (folder / "_toc.yml").write_text(TOC)
    builder = Path(sys.executable).with_name("jupyter-book")
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [builder, "build", ".", "-W", "-n", "--keep-going"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths, "JUPYTER_PLATFORM_DIRS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    return folder / "_build" / "html" / "chapters"


@pytest.fixture
def page(browser, site) -> Iterator[Page]:
    """The explorer's page, opened from the disk."""
    visit = Visit(browser)
    page = visit.open((site / "index.html").as_uri())
    page.wait_for_selector(READY)
    yield page
    visit.page.close()
    harmless = ("Access to font at", "net::ERR_FAILED")  # see test_site
    assert not [e for e in visit.errors if not any(h in e for h in harmless)]


PLACES = {
    "num_experts": balance.NUM_EXPERTS,
    "top_k": balance.TOP_K,
    "skew": balance.SKEWS,
    "bias_rate": balance.BIAS_RATES,
    "step": range(balance.NUM_UPDATES + 1),
}


def slide(page: Page, setting: Setting) -> None:
    """Move every slider by keyboard, from its start or its end.

    The number of experts comes last, from above: fewer would limit the choice.
    """
    for name, value in reversed(asdict(setting).items()):
        slider = page.locator(f'input[name="{name}"]')
        last = int(slider.get_attribute("max"))
        place = PLACES[name].index(value)
        near_start = name != "num_experts" and place <= last / 2
        slider.press("Home" if near_start else "End")
        for _ in range(place if near_start else last - place):
            slider.press("ArrowRight" if near_start else "ArrowLeft")
    page.wait_for_selector(READY)


NUMBERS = """() => {
  const all = (css, name) => [...document.querySelectorAll(`.explorer ${css}`)]
    .map(e => e.dataset[name]);
  return {load: all("rect[data-load]", "load").map(Number), facts: all("dd", "value"),
          rates: all("g[data-rate]", "value")};
}"""


def expected(s: Setting) -> dict:
    """The same numbers from Python."""
    course = simulate(s)
    total, active = balance.parameters(s.num_experts, s.top_k)
    rates = [simulate(replace(s, bias_rate=r)) for r in balance.BIAS_RATES if r]
    return {
        "load": course.loads[s.step],
        "facts": [course.violations[s.step], course.outcome, total, active],
        "rates": [str(run.outcome) for run in rates],
    }


def same_numbers(page: Page, s: Setting) -> None:
    shown, wanted = page.evaluate(NUMBERS), expected(s)
    violation, *facts = shown.pop("facts")
    exact, *others = wanted.pop("facts")
    assert float(violation) == exact
    assert facts == [str(fact) for fact in others]
    assert shown == wanted


SETTINGS = [
    Setting(),
    Setting(num_experts=4, top_k=1, skew=0.0, bias_rate=0.0, step=0),
    Setting(num_experts=4, top_k=4, skew=3.0, bias_rate=0.2, step=1),
    Setting(num_experts=8, top_k=2, skew=6.0, bias_rate=0.01, step=30),
    Setting(num_experts=8, top_k=5, skew=0.5, bias_rate=0.05, step=299),
    Setting(num_experts=16, top_k=4, skew=4.0, bias_rate=0.001, step=300),
    Setting(num_experts=16, top_k=1, skew=1.5, bias_rate=0.02, step=12),
    Setting(num_experts=32, top_k=6, skew=2.5, bias_rate=0.1, step=280),
    Setting(num_experts=32, top_k=3, skew=5.5, bias_rate=0.002, step=5),
    Setting(num_experts=64, top_k=8, skew=6.0, bias_rate=0.005, step=290),
    Setting(num_experts=64, top_k=1, skew=3.5, bias_rate=0.2, step=7),
    Setting(num_experts=64, top_k=7, skew=1.0, bias_rate=0.001, step=40),
]


def named(s: Setting) -> str:
    return "-".join(map(str, asdict(s).values()))


@pytest.mark.parametrize("setting", SETTINGS, ids=named)
def test_the_page_shows_the_numbers_of_python(page, setting):
    slide(page, setting)
    same_numbers(page, setting)


def test_a_mouse_moves_the_sliders_too(page):
    moved = asdict(Setting())
    for name, share in {"skew": 0.9, "bias_rate": 0.6, "step": 0.4}.items():
        slider = page.locator(f'input[name="{name}"]')
        box = slider.bounding_box()
        y = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + 0.1 * box["width"], y)
        page.mouse.down()
        page.mouse.move(box["x"] + share * box["width"], y, steps=4)
        page.mouse.up()
        moved[name] = PLACES[name][int(slider.input_value())]
        assert moved[name] != getattr(Setting(), name)
    page.wait_for_selector(READY)
    same_numbers(page, Setting(**moved))


def test_fewer_experts_leave_fewer_to_choose(page):
    slide(page, Setting(num_experts=8, top_k=8))
    page.locator('input[name="num_experts"]').press("ArrowLeft")
    chosen = page.locator('input[name="top_k"]')
    assert chosen.get_attribute("aria-valuetext") == "4"
    chosen.press("ArrowRight")
    assert chosen.get_attribute("aria-valuetext") == "4"
    page.wait_for_selector(READY)
    same_numbers(page, Setting(num_experts=4, top_k=4))


def test_words_follow_what_is_drawn_and_are_spoken_at_rest(page):
    drawn = page.locator('[data-picture="load"] svg')
    assert "after 20 updates" in drawn.get_attribute("aria-label")
    assert page.get_by_role("status").inner_text() == ""
    page.get_by_role("slider", name="updates").press("ArrowRight")
    load = simulate(Setting(step=21)).loads[21]
    words = drawn.get_attribute("aria-label")
    assert f"after 21 updates: the busiest gets {max(load)} tokens" in words
    spoken = page.get_by_role("status").filter(has_text="MaxVio after 21 updates")
    spoken.wait_for(state="attached")


INK = "e => getComputedStyle(e).fill"
PAPER = "e => getComputedStyle(e.closest('.text_html')).backgroundColor"


def test_it_fits_the_page_in_every_light_and_width(browser, site, scheme, width):
    width = min(width, 1280) if width > 600 else 360
    visit = Visit(browser, scheme, width)
    page = visit.open((site / "index.html").as_uri())
    page.wait_for_selector(READY)
    assert page.evaluate(OVERFLOW) == [] and page.evaluate(SILENT) == []
    page.add_script_tag(path=AXE)
    found = [f for f in page.evaluate(AXE_RUN) if f[0] not in THEME_FINDINGS]
    label = page.locator(".explorer svg text").first
    red = int(label.evaluate(INK).removeprefix("rgb(").split(",")[0])
    paper = label.evaluate(PAPER)
    requests = [u for u in visit.requests if not u.startswith(("file:", "data:"))]
    visit.page.close()
    assert not found and not requests
    assert red < 100 if scheme == "light" else red > 150
    assert paper == "rgba(0, 0, 0, 0)", "an explorer stands on the page itself"


def test_without_javascript_the_start_is_a_picture(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    picture = page.locator("[data-explorer] img")
    assert picture.is_visible() and picture.bounding_box()["width"] > 300
    assert picture.get_attribute("alt") == balance.alternative(Setting())
    assert page.get_by_text(widgets.NOTE).is_visible()
    context.close()


def test_a_page_loads_explorers_only_where_it_shows_them(site):
    assert "explorers/" not in (site / "plain.html").read_text()
    shown = (site / "index.html").read_text()
    assert shown.count("explorers/balance.js") == 1
    assert "widget-state" not in shown and "<img alt=" in shown


# What anywidget does with the module in a notebook.
MOUNT = """async ([source, state]) => {
  const url = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
  const { default: explorer } = await import(url);
  const heard = {}, el = document.body;
  window.saved = [];
  window.model = {
    get: name => state[name],
    set: (name, value) => { state[name] = value; },
    save_changes: () => saved.push(structuredClone(state.choice)),
    on: (name, does) => { heard[name] = does; },
    off: name => { delete heard[name]; },
  };
  window.fromPython = choice => { state.choice = choice; heard["change:choice"](); };
  window.leave = explorer.render({ model, el });
  window.heard = heard;
}"""


def test_in_a_notebook_the_choice_travels_both_ways(browser):
    explorer = widgets.balance_explorer()
    state = {"fixed": explorer.fixed, "choice": explorer.choice}
    page = browser.new_page()
    page.evaluate(MOUNT, [explorer._esm, state])
    # JupyterLab looks at the focused element alone before it takes an arrow key.
    assert page.locator("input[data-lm-suppress-shortcuts]").count() == len(PLACES)
    page.locator('input[name="top_k"]').press("ArrowRight")
    assert page.evaluate("saved") == [asdict(Setting(top_k=5))]
    told = Setting(num_experts=8, top_k=2, skew=1.0, bias_rate=0.01, step=40)
    page.evaluate("choice => fromPython(choice)", asdict(told))
    page.wait_for_selector(READY)
    same_numbers(page, told)
    page.evaluate("leave()")
    assert page.evaluate("heard") == {}
    page.close()
