"""The built site, as a browser meets it, and the build's own promises.

`make book` builds what is looked at here. Without Chromium the browser's tests are
skipped, and say so; where CI is set they fail instead.
"""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = {"desktop": 1280, "phone": 375}
# Findings in the theme's own header and search field, not in the pages.
THEME_FINDINGS = {"label-content-name-mismatch", "region"}
EXTRA = {"genindex.html", "search.html", "index.html"}

sys.path.insert(0, str(ROOT / "_ext"))
import course_site  # noqa: E402


def need(thing: object, what: str, how: str) -> None:
    """Skip loudly on a machine that lacks something; fail on one that tests for all."""
    if thing:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing: {how}")
    pytest.skip(f"NOT TESTED, {what} is missing: {how}")


def pages() -> list[str]:
    """Pages of the book, as paths below the site."""
    found = (p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html"))
    return sorted(p for p in found if p not in EXTRA and not p.startswith("_"))


@pytest.fixture(scope="module")
def site() -> Path:
    need(SITE.is_dir(), "the built book", "run `make book`")
    return SITE


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site, served on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    need(found, "Chromium", "install it (Debian: apt install chromium)")
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visit:
    """One page in one browser window, and what it said and asked for meanwhile."""

    def __init__(self, browser: Browser, scheme: str = "light", width: int = 1280):
        self.page: Page = browser.new_page(
            color_scheme=scheme, viewport={"width": width, "height": 900}
        )
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._listen)

    def _listen(self, message) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def open(self, url: str) -> Page:
        self.page.goto(url)
        self.page.evaluate("() => window.MathJax?.startup?.promise")
        return self.page


OVERFLOW = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const inside = e => e && (getComputedStyle(e).overflowX !== "visible"
                            || inside(e.parentElement));
  return [...document.querySelectorAll(".bd-article *")]
    .filter(e => e.getBoundingClientRect().right > width && !inside(e.parentElement))
    .map(e => e.outerHTML.slice(0, 120)).concat("(page too wide)");
}"""

CHOPPED = """() => [...document.querySelectorAll(".bd-article div.math mjx-container")]
  .filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => e.innerText.replace(/\\s+/g, " ").slice(0, 60))"""

UNSEEN = """() => [...document.images]
  .filter(image => !image.complete || image.naturalWidth === 0)
  .map(image => image.src)"""

SILENT = """() => [...document.querySelectorAll(".bd-article img, .bd-article svg")]
  .filter(e => !e.closest("mjx-container, .headerlink, button, summary, [aria-hidden]"))
  .filter(e => (e.alt ?? e.getAttribute("aria-label") ?? "").trim().length < 20)
  .map(e => e.outerHTML.slice(0, 160))"""

# A table that stayed a row of bars, a directive or a role that nothing read.
RAW_MARKUP = re.compile(
    r"\|\s*[-—]+\s*\|.*|^:::.*|\{(ref|term|cite|doc)\}`.*", re.MULTILINE
)

# Of what axe may never find fault with, and would look at for seconds: what a picture
# with a name of its own is drawn of, and in a listing all words of a colour but one.
THIN = """() => {
  const leaf = 'svg[role="img"][aria-label]:not(:has(a, [tabindex]))';
  for (const svg of document.querySelectorAll(leaf)) svg.replaceChildren();
  for (const listing of document.querySelectorAll("pre")) {
    const kinds = new Set();
    for (const word of [...listing.querySelectorAll("span:not(:has(*))")]) {
      const kind = word.cloneNode(false).outerHTML;
      if (kinds.has(kind)) word.replaceWith(...word.childNodes);
      kinds.add(kind);
    }
  }
}"""

AXE_RUN = """async ([rules, but]) => {
  const only = rules.length ? {runOnly: {type: "rule", values: rules}} : {};
  const without = Object.fromEntries(but.map(rule => [rule, {enabled: false}]));
  const asked = {resultTypes: ["violations"], preload: false, rules: without};
  const found = await axe.run({...asked, ...only});
  const show = nodes => nodes.slice(0, 3).map(node => node.html.slice(0, 120));
  return found.violations.map(v => `${v.id}: ${v.help}: ${show(v.nodes)}`);
}"""
# What axe is asked, and what it is not: everything at first, what hangs on colours in
# the dark, and all the rest on a phone. Colours do not hang on the width.
ASKED = {
    "desktop": {
        "light": ([], []),
        "dark": (["color-contrast", "link-in-text-block"], []),
    },
    "phone": {"light": ([], ["color-contrast"])},
}


def axe(page: Page, only: list = (), but: list = ()) -> list[str]:
    """What axe finds, asked for all rules, some, or all but."""
    return page.evaluate(AXE_RUN, [list(only), [*but, *THEME_FINDINGS]])


def look(page: Page) -> list[str]:
    """What is wrong with a page as it stands in the browser."""
    found = [f"too wide: {e}" for e in page.evaluate(OVERFLOW)]
    found += [f"chopped formula: {e}" for e in page.evaluate(CHOPPED)]
    found += [f"not drawn: {e}" for e in page.evaluate(UNSEEN)]
    return found + [f"no alt text: {e}" for e in page.evaluate(SILENT)]


def turn(page: Page, scheme: str) -> None:
    """As a page turns where the reader's system does."""
    page.emulate_media(color_scheme=scheme)
    page.wait_for_selector(f'html[data-theme="{scheme}"]')


@pytest.mark.parametrize("place", WIDTHS)
def test_pages_read_well_in_every_light(browser, site, address, place):
    """No request to others, no error, nothing too wide, maths drawn, axe content.

    A page is loaded for each width, since a phone gets other pictures. On a desktop it
    comes from a server, and on a phone from the disk, where it needs none: only the
    preloading of icon fonts is refused there, and the icons come anyway.
    """
    home = {"desktop": address, "phone": site.as_uri()}[place]
    harmless = ("Access to font at", "net::ERR_FAILED") if place == "phone" else ()
    problems, visit = [], Visit(browser, "light", WIDTHS[place])
    for name in pages():
        page = visit.open(f"{home}/{name}")
        page.add_script_tag(path=AXE)
        page.add_style_tag(content="* {transition: none !important}")
        maths = page.locator(".math").count()
        if page.locator("mjx-container").count() < maths:
            problems.append(f"{name}: {maths} formulas, not all of them drawn")
        for scheme in ("dark", "light"):
            turn(page, scheme)
            problems += [f"{name}, {scheme}: {finding}" for finding in look(page)]
        page.evaluate(THIN)
        for scheme, rules in ASKED[place].items():
            turn(page, scheme)
            problems += [f"{name}, {scheme}: {found}" for found in axe(page, *rules)]
    ours = (home, "data:", "blob:")
    foreign = {url for url in visit.requests if not url.startswith(ours)}
    visit.page.close()
    assert not [e for e in visit.errors if not any(h in e for h in harmless)]
    assert not foreign, foreign
    assert not problems, "\n".join(problems)


def test_a_page_is_readable_without_javascript(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    for name in pages():
        page.goto(f"{address}/{name}", wait_until="domcontentloaded")
        assert page.locator(".bd-article h1").is_visible()
        text = page.locator(".bd-article").inner_text()
        assert len(text) > 100
        assert not RAW_MARKUP.search(text), f"{name}: {RAW_MARKUP.search(text)[0]}"
    context.close()


def test_links_between_the_pages_resolve(site):
    lychee = Path(sys.executable).with_name("lychee")
    need(lychee.is_file(), "lychee", "run `make test`, which installs it")
    options = ["--offline", "--no-progress", "--include-fragments"]
    where = ["--root-dir", str(site), "--exclude-path", str(site / "_static")]
    ran = subprocess.run(
        [lychee, *options, *where, *(str(site / name) for name in pages())],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_site_loads_nothing_from_others(site):
    for name in pages():
        assert not course_site.foreign_loads((site / name).read_text()), name


def test_foreign_loads_are_found_and_links_are_not():
    html = (
        '<script src="https://a.example/x.js"></script><img src="//b.example/y.png">'
        '<a href="https://c.example">text</a><link rel="canonical" href="https://d.e">'
    )
    assert course_site.foreign_loads(html) == [
        "<script src=https://a.example/x.js>",
        "<img src=//b.example/y.png>",
    ]
