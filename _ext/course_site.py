"""What the book tool lacks: a site that asks no other server, and honest buttons.

The build stops where a page would load a script, a style, a frame or an image from
elsewhere. What the pages need from npm is copied beside them.
"""

import shutil
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import captions
import citations
import course_map
import course_plan
import execution_key
import explorers
import folds
import front_card
import side_by_side
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

COLAB = "https://colab.research.google.com"

# From npm's folder to the site's: {folder in the site: (folder in npm's, its files)}.
CARRIED = {
    "vendor/mathjax": (
        "mathjax/es5",
        ("tex-chtml.js", "input/tex/extensions/*.js", "output/chtml/fonts/woff-v2/*"),
    ),
}


# What the tools write, and what a screen reader or a keyboard needs in its place.
REPAIRS = {
    'role="doc-biblioentry"': 'role="listitem"',
    '<summary aria-label="Toggle hidden content">': "<summary>",
    '<div class="pst-scrollable-table-container">': (
        '<div class="pst-scrollable-table-container" tabindex="0">'
    ),
}


def repository(root: Path) -> str:
    """The course's public address, or nothing while there is none."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def configure(app: Sphinx, config: Config) -> None:
    """Set what depends on the code or on the repository's address."""
    root, build = Path(app.srcdir), Path(app.outdir).parent
    config.nb_execution_cache_path = str(execution_key.cache_folder(root, build))
    config.course_look = execution_key.digest(root, execution_key.look(root))
    address = repository(root)
    config.html_theme_options |= {
        "repository_url": address,
        "repository_branch": "main",
        "use_repository_button": bool(address),
        "launch_buttons": {"colab_url": COLAB} if address else {},
    }


def announce_pages(app: Sphinx, env: Any, pages: list[str]) -> None:
    """Say which page is being run: the one sign of life in a quiet build."""
    numbers = {page: number for number, page in enumerate(sorted(pages), 1)}

    def announce(app: Sphinx, page: str, source: list[str]) -> None:
        print(f"  {numbers.get(page, '-')}/{len(numbers)}  {page}", flush=True)

    app.connect("source-read", announce, priority=1)


def carry_browser_files(app: Sphinx) -> None:
    """Copy the browser files that the pages load into the site.

    Raises:
        ExtensionError: they are not installed.
    """
    packages = Path(app.srcdir) / "node_modules"
    for target, (source, patterns) in CARRIED.items():
        files = [f for pattern in patterns for f in (packages / source).glob(pattern)]
        if not files:
            raise ExtensionError(f"no {packages / source}: `make book` installs it")
        for file in files:
            place = Path(app.outdir, "_static", target)
            place /= file.relative_to(packages / source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, place)


def finish_page(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Make the page accessible, and keep the Colab button on notebooks alone.

    Colab cannot open a Markdown page.
    """
    for written, needed in REPAIRS.items():
        context["body"] = context.get("body", "").replace(written, needed)
    if app.env.doc2path(page).endswith(".ipynb"):
        return
    buttons = context.get("header_buttons", [])
    buttons[:] = [b for b in buttons if b.get("label") != "launch-buttons"]


class Loads(HTMLParser):
    """Addresses on other servers that a page would load by itself."""

    TAGS = ("script", "link", "img", "iframe", "source", "video", "audio", "embed")

    def __init__(self) -> None:
        super().__init__()
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.TAGS or ("rel", "canonical") in attrs:
            return
        for name, value in attrs:
            if name in ("src", "href", "srcset") and value:
                if value.startswith(("http://", "https://", "//")):
                    self.foreign.append(f"<{tag} {name}={value}>")


def foreign_loads(html: str) -> list[str]:
    """What a page would load from another server, tag by tag."""
    parser = Loads()
    parser.feed(html)
    return parser.foreign


def refuse_foreign_loads(app: Sphinx, exception: Exception | None) -> None:
    """Stop the build where a page would ask another server.

    Raises:
        ExtensionError: one line per page and address.
    """
    if exception or app.builder.format != "html":
        return
    found = []
    for page in sorted(Path(app.outdir).rglob("*.html")):
        loads = foreign_loads(page.read_text("utf-8"))
        found += [f"{page.name}: {load}" for load in loads]
    if found:
        raise ExtensionError("pages load from other servers:\n" + "\n".join(found))


def setup(app: Sphinx) -> dict[str, bool]:
    parts = (front_card, course_map, course_plan, folds, captions, citations, explorers)
    for part in (*parts, side_by_side):
        part.setup(app)
    app.add_config_value("course_look", "", "html")  # a new look rewrites all pages
    app.connect("config-inited", configure)
    app.connect("builder-inited", carry_browser_files)
    app.connect("env-before-read-docs", announce_pages)
    app.connect("html-page-context", finish_page, priority=900)
    app.connect("build-finished", refuse_foreign_loads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
