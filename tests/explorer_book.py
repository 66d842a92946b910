"""A miniature book with every explorer on its first page, and how to drive them."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from playwright.sync_api import Locator

ROOT = Path(__file__).resolve().parents[1]
SHARED = (
    *("_config.yml", "_ext", "_static", "references.bib", "constraints.txt"),
    *("pyproject.toml", "node_modules", "tiny_lm"),
)
FIRST_PAGE = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3}
---
# Explorers

```{code-cell} ipython3
:tags: [remove-input]
from tiny_lm.course.explorers import widgets
widgets.balance_explorer()
```

```{code-cell} ipython3
:tags: [remove-input]
widgets.timeline_explorer()
```

```{code-cell} ipython3
:tags: [remove-input]
widgets.context_explorer()
```

```{code-cell} ipython3
:tags: [remove-input]
widgets.codes_explorer()
```

```{code-cell} ipython3
:tags: [remove-input]
widgets.pipeline_explorer()
```
"""
TOC = "format: jb-book\nroot: chapters/index\nchapters: [{file: chapters/plain}]\n"


def build(folder: Path) -> Path:
    """The pages of a book with the course's settings: `index` and `plain`."""
    for name in SHARED:
        (folder / name).symlink_to(ROOT / name)
    (folder / "chapters").mkdir()
    (folder / "chapters" / "index.md").write_text(FIRST_PAGE)
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


def press(slider: Locator, place: int, only_from_above: bool = False) -> None:
    """Move a slider by keyboard to one of its places, from its nearer end."""
    last = int(slider.get_attribute("max"))
    rises = not only_from_above and place <= last / 2
    slider.focus()
    keys = slider.page.keyboard
    keys.press("Home" if rises else "End")
    for _ in range(place if rises else last - place):
        keys.press("ArrowRight" if rises else "ArrowLeft")


def drag(
    explorer: Locator, shares: Mapping[str, float], places: Mapping[str, Sequence]
) -> dict[str, object]:
    """Move sliders by mouse to a share of their width; returns where they stand."""
    mouse = explorer.page.mouse
    moved = {}
    for name, share in shares.items():
        slider = explorer.locator(f'input[name="{name}"]')
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        y = box["y"] + box["height"] / 2
        mouse.move(box["x"] + 0.1 * box["width"], y)
        mouse.down()
        mouse.move(box["x"] + share * box["width"], y, steps=4)
        mouse.up()
        moved[name] = places[name][int(slider.input_value())]
    return moved
