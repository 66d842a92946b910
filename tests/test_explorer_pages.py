"""Explorers on a built page, driven by keyboard and mouse, against `tiny_lm`.

A miniature book with the course's settings, looked at with the system's Chromium:
without one these tests are skipped, and say so; where CI is set they fail instead.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import test_site
from codes_pages import STANDS as CODES
from codes_pages import go_to as hold
from codes_pages import pointer_moves_the_number, same_codes
from context_pages import STANDS as CONTEXTS
from context_pages import go_to as choose
from context_pages import heads_limit_groups, menus_choose_a_shape, same_costs
from explorer_book import ROOT, build, drag, press
from pipeline_pages import STANDS as ORDERS
from pipeline_pages import go_to as order
from pipeline_pages import same_bars
from playwright.sync_api import Locator
from test_site import AXE, OVERFLOW, SILENT, Visit, axe
from timeline_pages import STANDS, STOPS, go_to, same_times

from tiny_lm.course.explorers import (
    balance,
    codes,
    context,
    pipeline,
    timeline,
    widgets,
)
from tiny_lm.course.explorers.balance import Setting
from tiny_lm.course.explorers.timeline import Setting as Place

READY = ".explorer:not([data-busy])"
NAMES = {
    "balance": "Explorer: load of experts",
    "timeline": "Explorer: time of a layer",
    "context": "Explorer: what a context costs",
    "codes": "Explorer: numbers in few bits",
    "pipeline": "Explorer: orders of a pipeline",
}
EXPLORERS = [  # name, model, widget, number of sliders, a choice that Python makes
    (
        *("balance", balance, widgets.balance_explorer, 5),
        Setting(num_experts=8, top_k=2, skew=1.0, bias_rate=0.01, step=40),
    ),
    (
        *("timeline", timeline, widgets.timeline_explorer, 6),
        Place(bandwidth=100, latency=50, tokens=256, speed=2, overlap=False),
    ),
    ("context", context, widgets.context_explorer, 10, CONTEXTS[6]),
    ("codes", codes, widgets.codes_explorer, 5, CODES[6]),
    ("pipeline", pipeline, widgets.pipeline_explorer, 4, ORDERS[3]),
]
each_explorer = pytest.mark.parametrize(
    ("name", "model", "widget", "num_sliders", "told"), EXPLORERS, ids=NAMES
)

browser = test_site.browser  # a fixture


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A book of two pages: one has all explorers."""
    packages = ROOT / "node_modules"
    test_site.need(packages.is_dir(), "npm's browser files", "run `make book`")
    return build(tmp_path_factory.mktemp("explorers"))


@pytest.fixture(scope="module")
def window(browser) -> Iterator[Visit]:
    visit = Visit(browser)
    yield visit
    visit.page.close()


@pytest.fixture
def left(window, site) -> Iterator[Visit]:
    """The explorers' page, opened from the disk, as the last test left it."""
    address = (site / "index.html").as_uri()
    if window.page.url != address:
        window.open(address).wait_for_selector(READY)
    yield window
    harmless = ("Access to font at", "net::ERR_FAILED")  # see test_site
    assert not [e for e in window.errors if not any(h in e for h in harmless)]
    window.errors.clear()


@pytest.fixture
def visit(left) -> Visit:
    """The same page, opened afresh."""
    left.page.reload()
    left.page.wait_for_selector(READY)
    return left


def shown(visit: Visit, name: str) -> Locator:
    """One of the explorers."""
    return visit.page.get_by_role("group", name=NAMES[name])


@pytest.fixture
def load(visit) -> Locator:
    """The explorer of balance."""
    return shown(visit, "balance")


@pytest.fixture
def layer(visit) -> Locator:
    """The explorer of a layer's timeline."""
    return shown(visit, "timeline")


@pytest.fixture
def costs(visit) -> Locator:
    """The explorer of what a context costs."""
    return shown(visit, "context")


@pytest.fixture
def bits(visit) -> Locator:
    """The explorer of numbers in few bits."""
    return shown(visit, "codes")


# --- balance ---

PLACES = {
    "num_experts": balance.NUM_EXPERTS,
    "top_k": balance.TOP_K,
    "skew": balance.SKEWS,
    "bias_rate": balance.BIAS_RATES,
    "step": range(balance.NUM_UPDATES + 1),
}


def slide(explorer: Locator, s: Setting) -> None:
    """The number of experts comes last, from above: fewer would limit the choice."""
    experts = explorer.locator('input[name="num_experts"]')
    press(experts, balance.NUM_EXPERTS.index(Setting().num_experts))
    for name, value in reversed(asdict(s).items()):
        slider = explorer.locator(f'input[name="{name}"]')
        press(slider, PLACES[name].index(value), only_from_above=name == "num_experts")


NUMBERS = """explorer => {
  const all = (css, name) => [...explorer.querySelectorAll(css)]
    .map(e => e.dataset[name]);
  return {load: all("rect[data-load]", "load").map(Number), facts: all("dd", "value"),
          rates: all("g[data-rate]", "value")};
}"""


def expected(s: Setting) -> dict:
    """The same numbers from Python."""
    course = balance.simulate(s)
    total, active = balance.parameters(s.num_experts, s.top_k)
    rates = [balance.simulate(replace(s, bias_rate=r)) for r in balance.BIAS_RATES if r]
    return {
        "load": course.loads[s.step],
        "facts": [course.violations[s.step], course.outcome, total, active],
        "rates": [str(run.outcome) for run in rates],
    }


def same_numbers(explorer: Locator, s: Setting) -> None:
    explorer.page.wait_for_selector(READY + ":has([data-picture=load])")
    shown, wanted = explorer.evaluate(NUMBERS), expected(s)
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


def named(s: object) -> str:
    return "-".join(map(str, asdict(s).values()))


@pytest.mark.parametrize("setting", SETTINGS, ids=named)
def test_the_page_shows_the_numbers_of_python(left, setting):
    slide(shown(left, "balance"), setting)
    same_numbers(shown(left, "balance"), setting)


def test_a_mouse_moves_the_sliders_too(load):
    moved = drag(load, {"skew": 0.9, "bias_rate": 0.6, "step": 0.4}, PLACES)
    assert all(value != getattr(Setting(), name) for name, value in moved.items())
    same_numbers(load, Setting(**moved))


def test_fewer_experts_leave_fewer_to_choose(load):
    slide(load, Setting(num_experts=8, top_k=8))
    load.locator('input[name="num_experts"]').press("ArrowLeft")
    chosen = load.locator('input[name="top_k"]')
    assert chosen.get_attribute("aria-valuetext") == "4"
    chosen.press("ArrowRight")
    assert chosen.get_attribute("aria-valuetext") == "4"
    same_numbers(load, Setting(num_experts=4, top_k=4))


def test_words_follow_what_is_drawn_and_are_spoken_at_rest(load):
    drawn = load.locator('[data-picture="load"] svg')
    assert "after 20 updates" in drawn.get_attribute("aria-label")
    assert load.get_by_role("status").inner_text() == ""
    load.get_by_role("slider", name="updates").press("ArrowRight")
    counts = balance.simulate(Setting(step=21)).loads[21]
    words = drawn.get_attribute("aria-label")
    assert f"after 21 updates: the busiest gets {max(counts)} tokens" in words
    spoken = load.get_by_role("status").filter(has_text="MaxVio after 21 updates")
    spoken.wait_for(state="attached")


# --- the timeline of a layer ---


@pytest.mark.parametrize("stand", STANDS, ids=named)
def test_the_page_plays_a_layer_to_the_picosecond(left, stand):
    go_to(shown(left, "timeline"), stand)
    same_times(shown(left, "timeline"), stand)


def test_a_mouse_slides_the_link_and_ticks_the_box(layer):
    moved = drag(layer, {"bandwidth": 0.7, "latency": 0.8, "tokens": 0.3}, STOPS)
    assert all(value != getattr(Place(), name) for name, value in moved.items())
    layer.get_by_text("overlap", exact=True).click()
    same_times(layer, Place(**moved, overlap=False))


def test_the_timeline_says_what_it_shows(layer):
    layer.get_by_role("slider", name="link").press("ArrowRight")
    layer.get_by_role("checkbox", name="overlap").press("Space")
    step = timeline.simulate(Place(bandwidth=50, overlap=False))
    words = layer.locator('[data-picture="timeline"] svg').get_attribute("aria-label")
    total = f"{step.timeline.step_ps / 1e9:.2f} ms"
    assert f"one after the other: the step takes {total}" in words
    spoken = layer.get_by_role("status").filter(has_text=f"the step takes: {total}")
    spoken.wait_for(state="attached")
    slider = layer.get_by_role("slider", name="link")
    said = slider.get_attribute("aria-valuetext")
    assert said == "50 GB/s, line rate of V3's network"


# --- what a context costs ---


@pytest.mark.parametrize("stand", CONTEXTS, ids=named)
def test_the_page_counts_a_context_to_the_last_bit(left, stand):
    choose(shown(left, "context"), stand)
    same_costs(shown(left, "context"), stand)


def test_a_shape_is_chosen_by_name_or_number_by_number(costs):
    menus_choose_a_shape(costs)
    heads_limit_groups(costs)


# --- numbers in few bits ---


@pytest.mark.parametrize("stand", CODES, ids=named)
def test_the_page_rounds_to_the_last_bit(left, stand):
    hold(shown(left, "codes"), stand)
    same_codes(shown(left, "codes"), stand)


@pytest.mark.parametrize("stand", ORDERS, ids=named)
def test_the_page_plays_every_order_to_the_last_bit(left, stand):
    order(shown(left, "pipeline"), stand)
    same_bars(shown(left, "pipeline"), stand)


def test_a_pointer_takes_the_number_along_the_line(bits):
    pointer_moves_the_number(bits)


# --- what holds for all explorers ---

INK = "e => getComputedStyle(e).fill"
HIDDEN = """[...document.querySelectorAll(".explorer svg *")]
  .filter(e => getComputedStyle(e).opacity !== "1").map(e => e.outerHTML)"""
PAPER = "e => getComputedStyle(e.closest('.text_html')).backgroundColor"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_all_fit_the_page_in_every_light_and_width(browser, site, scheme, width):
    visit = Visit(browser, scheme, width)
    page = visit.open((site / "index.html").as_uri())
    page.wait_for_selector(READY)
    assert page.locator(".explorer").count() == len(EXPLORERS)
    assert page.evaluate(OVERFLOW) == [] and page.evaluate(SILENT) == []
    assert page.evaluate(HIDDEN) == [], "the theme has a rule for a class of ours"
    page.add_script_tag(path=AXE)
    found = axe(page)
    labels = [page.locator(f"[data-explorer={n}] svg text").first for n in NAMES]
    red = [int(e.evaluate(INK).removeprefix("rgb(").split(",")[0]) for e in labels]
    paper = {label.evaluate(PAPER) for label in labels}
    requests = [u for u in visit.requests if not u.startswith(("file:", "data:"))]
    visit.page.close()
    assert not found and not requests
    assert max(red) < 100 if scheme == "light" else min(red) > 150
    assert paper == {"rgba(0, 0, 0, 0)"}, "an explorer stands on the page itself"


def test_without_javascript_the_start_is_a_picture(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    for name, model, *_ in EXPLORERS:
        box = page.locator(f'[data-explorer="{name}"]')
        picture = box.locator("img")
        assert picture.is_visible() and picture.bounding_box()["width"] > 300
        assert picture.get_attribute("alt") == model.alternative(model.Setting())
        assert box.get_by_text(widgets.NOTE).is_visible()
    context.close()


def test_a_page_loads_explorers_only_where_it_shows_them(site):
    assert "explorers/" not in (site / "plain.html").read_text()
    shown = (site / "index.html").read_text()
    assert all(shown.count(f"explorers/{name}.js") == 1 for name in NAMES)
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


@each_explorer
def test_in_a_notebook_the_choice_travels_both_ways(
    browser, name, model, widget, num_sliders, told
):
    explorer = widget()
    state = {"fixed": explorer.fixed, "choice": explorer.choice}
    page = browser.new_page()
    page.evaluate(MOUNT, [explorer._esm, state])
    # JupyterLab looks at the focused element alone before it takes an arrow key.
    sliders = page.locator("input[data-lm-suppress-shortcuts]")
    assert sliders.count() == num_sliders
    sliders.nth(1).press("ArrowLeft")
    (saved,) = page.evaluate("saved")
    differs = {key for key in saved if saved[key] != explorer.choice[key]}
    assert differs == {sliders.nth(1).get_attribute("name")}
    model.Setting(**saved)  # a place that the slider has
    page.evaluate("choice => fromPython(choice)", asdict(told))
    root = page.get_by_role("group", name=NAMES[name])
    same = {"balance": same_numbers, "timeline": same_times}
    same |= {"context": same_costs, "codes": same_codes, "pipeline": same_bars}
    same[name](root, told)
    page.evaluate("leave()")
    assert page.evaluate("heard") == {}
    page.close()
