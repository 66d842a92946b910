"""Places of the explorer of a pipeline's orders, and what it has to show there."""

from explorer_book import press
from playwright.sync_api import Locator

from tiny_lm.course.explorers import pipeline
from tiny_lm.course.explorers.pipeline import Setting
from tiny_lm.parallel import bubbles

STANDS = [
    Setting(),
    Setting(order="gpipe", sends=0, ranks=2, micros=4),
    Setting(order="1f1b", sends=0, ranks=8, micros=16),
    Setting(order="zb1p", works="1 : 1 : ½", sends=0.25, hidden=False),
    Setting(order="zbv", works="1 : 1½ : ½", sends=0, micros=16),
    Setting(order="interleaved", ranks=8, micros=8, sends=2, hidden=False),
    Setting(order="dualpipe", ranks=8, micros=16, works="1 : ½ : 1½"),
    Setting(order="dualpipe", ranks=8, micros=4),  # does not fit
    Setting(order="dualpipev", ranks=4, micros=16, sends=0.5),
    Setting(order="dualpipev", ranks=2, micros=8, sends=1, hidden=False),
]

SHOWN = """explorer => {
  const all = (css, name) => [...explorer.querySelectorAll(css)]
    .map(e => e.dataset[name]);
  return {facts: all("dd", "value"), bars: all("g[data-bar]", "bar"),
          shares: all("g[data-order]", "share")};
}"""


def go_to(explorer: Locator, s: Setting) -> None:
    explorer.locator('select[name="order"]').select_option(s.order)
    switch = explorer.get_by_role("checkbox", name="pairs hide it")
    if switch.is_checked() != s.hidden:
        switch.press("Space")
    for name in ("ranks", "micros", "works", "sends"):
        slider = explorer.locator(f'input[name="{name}"]')
        press(slider, pipeline.places()[name].index(getattr(s, name)))


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def same_bars(explorer: Locator, s: Setting) -> None:
    """Every bar, what each rank waits and keeps, and all orders: equal, not close."""
    shown, step = explorer.evaluate(SHOWN), pipeline.simulate(s)
    others = [pipeline.simulate(s, order) for order in pipeline.TITLES]
    for share, other in zip(shown["shares"], others, strict=True):
        assert (None if share == "none" else float(share)) == (other and other.waits)
    if step is None:
        assert shown["facts"] == shown["bars"] == []
        return
    facts = [[step.length], step.idle, [step.waits], step.alive, [step.copies]]
    assert [numbers(fact) for fact in shown["facts"]] == facts
    rows = bubbles.play(pipeline.schedule(s), pipeline.units(s))
    wanted = [(*bar.action, bar.start, bar.end) for row in rows for bar in row]
    bars = [bar.split(",", 1) for bar in shown["bars"]]
    assert [(kind, *numbers(rest)) for kind, rest in bars] == wanted
