"""Seventeen places of the timeline's explorer, how to go there, and what it shows."""

from dataclasses import replace

from explorer_book import press
from playwright.sync_api import Locator

from tiny_lm.course.explorers import timeline
from tiny_lm.course.explorers.timeline import Setting as Place

STOPS = {
    "bandwidth": timeline.BANDWIDTHS,
    "latency": timeline.LATENCIES,
    "tokens": timeline.TOKENS,
    "speed": timeline.SPEEDS,
    "hops": timeline.HOPS,
    "nvlink": timeline.NVLINKS,
}


def go_to(explorer: Locator, s: Place) -> None:
    for name, stops in STOPS.items():
        slider = explorer.locator(f'input[name="{name}"]')
        press(slider, stops.index(getattr(s, name)))
    switch = explorer.get_by_role("checkbox", name="overlap")
    if switch.is_checked() != s.overlap:
        switch.press("Space")


TIMES = """explorer => {
  const all = (css, name) => [...explorer.querySelectorAll(css)]
    .map(e => e.dataset[name]);
  return {facts: all("dd", "value").map(Number), spans: all("g[data-span]", "span"),
          steps: all("polyline", "steps")};
}"""


def same_times(explorer: Locator, s: Place) -> None:
    """Every span, the totals and both curves, to the picosecond."""
    step = timeline.simulate(s)
    facts = [step.timeline.step_ps, step.exposed_ps]
    facts += [step.saved_by_bandwidth_ps, step.saved_by_latency_ps]
    spans = [
        f"{span.name},{span.kind},{span.start_ps},{span.end_ps}"
        for gpu in timeline.SHOWN
        for stream in ("compute", "comm")
        for span in step.timeline.of(gpu)
        if span.stream == stream
    ]
    steps = [
        ",".join(
            str(timeline.play(replace(s, overlap=order, bandwidth=rate)).step_ps)
            for rate in timeline.BANDWIDTHS
        )
        for order in (False, True)
    ]
    shown = explorer.evaluate(TIMES)
    assert shown == {"facts": facts, "spans": spans, "steps": steps}


STANDS = [
    Place(),
    Place(overlap=False),
    Place(bandwidth=25, latency=0, tokens=64, speed=0.25, overlap=True),
    Place(bandwidth=25, latency=1000, tokens=64, speed=4, overlap=True),
    Place(bandwidth=25, latency=1000, tokens=4096, speed=4, overlap=False),
    Place(bandwidth=900, latency=0, tokens=4096, speed=0.25, overlap=True),
    Place(bandwidth=900, latency=1000, tokens=64, speed=0.25, overlap=False),
    Place(bandwidth=900, latency=0, tokens=64, speed=4, overlap=False),
    Place(bandwidth=450, latency=1, tokens=256, speed=0.5, overlap=True),
    Place(bandwidth=160, latency=5, tokens=1024, speed=2, overlap=True),
    Place(bandwidth=320, latency=200, tokens=1024, speed=1, overlap=False),
    Place(bandwidth=64, latency=2, tokens=4096, speed=2, overlap=True),
    Place(hops="pipelined"),
    Place(hops="series"),
    Place(hops="pipelined", bandwidth=900, nvlink=50, latency=10, overlap=False),
    Place(hops="series", bandwidth=64, nvlink=900, tokens=256, latency=100),
    Place(bandwidth=128, latency=500, tokens=256, speed=1, overlap=True),
]
