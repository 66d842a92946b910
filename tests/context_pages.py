"""Ten places of the context's explorer, how to go there, and what it has to show."""

import itertools
from dataclasses import asdict

from explorer_book import press
from playwright.sync_api import Locator

from tiny_lm.course.explorers import context
from tiny_lm.course.explorers.context import Setting

LEAST = {name: min(of) for name, of in context.places().items() if name != "rates"}
MOST = {name: max(of) for name, of in context.places().items() if name != "rates"}
STANDS = [
    Setting(),
    Setting(rates="measured", bytes_per_number=1),
    Setting(**LEAST),
    Setting(**MOST),
    Setting(**LEAST | {"context": 2**20, "batch": 256, "rates": "measured"}),
    Setting(**MOST | {"context": 1024, "batch": 1, "weights_gb": 0}),
    Setting(context=2048, batch=32, layers=24, heads=16, groups=16, d_head=64),
    Setting(context=4096, batch=64, heads=8, groups=2, d_latent=256, d_rope=32),
    Setting(context=131_072, batch=2, weights_gb=75, **context.shapes()["Qwen2.5-72B"]),
    Setting(context=524_288, batch=1, rates="measured", layers=96, groups=1),
    Setting(batch=128, weights_gb=10, **context.shapes()["LLaMA-3.1-405B"]),
]

NUMBERS = """explorer => Object.fromEntries(["sizes", "times"].map(picture => [
  picture, [...explorer.querySelectorAll(`[data-picture=${picture}] g[data-row]`)]
    .map(g => [g.dataset.row, g.dataset.numbers.split(",").map(Number)])]))"""


def go_to(explorer: Locator, s: Setting) -> None:
    """The number of heads comes before the groups, which it limits."""
    explorer.locator("details").evaluate("e => e.open = true")
    for name, stops in context.places(s.heads).items():
        if name == "rates":
            explorer.locator('select[name="rates"]').select_option(s.rates)
        else:
            slider = explorer.locator(f'input[name="{name}"]')
            press(slider, stops.index(getattr(s, name)))


def same_costs(explorer: Locator, s: Setting) -> None:
    """Every number of every row, to the last bit, in both pictures; and the facts."""
    rows = context.rows(s)
    wanted = [
        [
            r.name,
            [r.bytes_per_token, r.cache_bytes, r.users]
            + [r.memory_s, r.arithmetic_s, r.step_s],
        ]
        for r in rows
    ]
    assert explorer.evaluate(NUMBERS) == {"sizes": wanted, "times": wanted}
    facts = explorer.locator("dd").evaluate_all("all => all.map(e => e.dataset.value)")
    (mla,) = (r for r in rows if r.name == "MLA")
    told = [mla.bytes_per_token, mla.cache_bytes, mla.users, mla.step_s]
    assert [float(fact) for fact in facts] == told
    limits = explorer.locator("[data-picture=times] g[data-row]").all_text_contents()
    for text, row in zip(limits, rows, strict=True):
        assert row.limit in text if s.batch <= row.users else "no room" in text


def heads_limit_groups(explorer: Locator) -> None:
    """Fewer heads take groups with them, and none can be added back."""
    go_to(explorer, Setting(heads=16, groups=16))
    explorer.locator('input[name="heads"]').press("ArrowLeft")
    groups = explorer.locator('input[name="groups"]')
    for _ in range(2):
        assert groups.get_attribute("aria-valuetext") == "8"
        groups.press("ArrowRight")
    same_costs(explorer, Setting(heads=8, groups=8))


def menus_choose_a_shape(explorer: Locator) -> None:
    """A published shape moves six sliders; moving one of them makes it our own."""
    menu = explorer.get_by_label("shape of the model")
    for name, shape in itertools.islice(context.shapes().items(), 3):
        menu.select_option(name)
        same_costs(explorer, Setting(**asdict(Setting()) | shape))
        assert menu.input_value() == name
    explorer.locator("summary").click()
    explorer.locator('input[name="layers"]').press("ArrowLeft")
    assert menu.input_value() == "own"
