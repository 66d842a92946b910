"""Places of the explorer of numbers in few bits, and what it has to show there."""

from dataclasses import asdict

from explorer_book import press
from playwright.sync_api import Locator

from tiny_lm.course.explorers import codes
from tiny_lm.course.explorers.codes import Setting

LEAST = {name: of[0] for name, of in codes.places().items()}
MOST = {name: of[-1] for name, of in codes.places().items()}
STANDS = [
    Setting(),
    Setting(**LEAST),
    Setting(**MOST),
    Setting(**MOST | {"format": "e5m2", "way": "row"}),  # too large, and much is zero
    Setting(exponent=8, part=52, way="none", outlier=500),  # 464: the last to be kept
    Setting(exponent=8, part=53, way="tile", doublings=20),
    Setting(format="e2m1", negative=True, exponent=-1, part=32, way="e4m3"),  # a middle
    Setting(format="e2m1", exponent=2, part=40, way="floor", doublings=4, outlier=1),
    Setting(format="e5m2", exponent=15, part=56, way="floor", outlier=5),
    Setting(format="e5m2", exponent=-17, part=1, way="up", doublings=24),
    Setting(negative=True, exponent=-10, part=0, way="up", outlier=10**6),  # a middle
    Setting(exponent=-8, part=21, way="e4m3", doublings=18, outlier=20_000),
    Setting(exponent=3, part=60, way="floor", doublings=1, outlier=2),  # up, to 16
]

NUMBERS = """explorer => {
  const list = text => text.split(",");
  const row = explorer.querySelector("g[data-kept]").dataset;
  return {
    facts: [...explorer.querySelectorAll("dd")].map(e => e.dataset.value),
    bits: [...explorer.querySelectorAll("[data-picture=bits] rect + text")]
      .map(e => e.textContent).join(""),
    scales: list(row.scales).map(Number),
    kept: list(row.kept).map(Number),
    fates: list(row.fates),
    ways: [...explorer.querySelectorAll("g[data-way]")]
      .map(g => [g.dataset.way, list(g.dataset.numbers).map(Number)]),
  };
}"""


def go_to(explorer: Locator, s: Setting) -> None:
    explorer.locator('select[name="format"]').select_option(s.format)
    switch = explorer.get_by_role("checkbox", name="negative")
    if switch.is_checked() != s.negative:
        switch.press("Space")
    for name in ("exponent", "part", "way", "doublings", "outlier"):
        slider = explorer.locator(f'input[name="{name}"]')
        press(slider, codes.places()[name].index(getattr(s, name)))


def same_codes(explorer: Locator, s: Setting) -> None:
    """The code and what it stands for; every number of the row, to the last bit."""
    shown = explorer.evaluate(NUMBERS)
    found, row = codes.read(s), codes.quantize(s, s.way)
    value, off, beside, became, *of_row = shown.pop("facts")
    shares = [row.share(fate) for fate in ("faint", "zero", "cut")]
    assert float(value) == found.value
    assert float(off) == abs(found.value - s.number)
    below, above = beside.split(",")
    assert float(below) == found.below
    assert (None if above == "null" else float(above)) == found.above
    assert became == found.fate
    assert [float(fact) for fact in of_row] == [row.error, *shares]
    rows = {way: codes.quantize(s, way) for way in codes.WAYS}
    assert shown == {
        "bits": f"{found.code:0{s.to.sign_bit.bit_length()}b}",
        "scales": row.scales,
        "kept": row.kept,
        "fates": row.fates,
        "ways": [
            [way, [of.error, *(of.share(fate) for fate in codes.FATES)]]
            for way, of in rows.items()
        ],
    }


def pointer_moves_the_number(explorer: Locator) -> None:
    """The dot follows over the whole line and stops at its ends."""
    line = explorer.locator('[data-picture="line"] svg')
    line.scroll_into_view_if_needed()
    box, mouse = line.bounding_box(), line.page.mouse
    places, ends = codes.places(), []
    sliders = {
        name: explorer.locator(f'input[name="{name}"]') for name in ("exponent", "part")
    }
    mouse.move(box["x"] + box["width"] / 2, box["y"] + 12)
    mouse.down()
    for share in (-0.1, 0.3, 1.1):
        mouse.move(box["x"] + share * box["width"], box["y"] + 12, steps=3)
        at = {n: places[n][int(slider.input_value())] for n, slider in sliders.items()}
        same_codes(explorer, Setting(**asdict(Setting()) | at))
        ends.append(tuple(at.values()))
    mouse.up()
    assert ends[0] == (-18, 0) and ends[2] == (16, 63)
    assert -9 <= ends[1][0] <= -7  # three tenths of 35 doublings above the first
    mouse.move(box["x"], box["y"] + 12)
    assert sliders["part"].input_value() == "63", "the pointer was let go"
