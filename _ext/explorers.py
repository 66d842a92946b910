"""Interactive figures on a page that has no kernel, and asks no server.

A browser loads no ES module from the disk, so a page gets the widget's own text as an
ordinary script: the same lines inside a function, and a few that find its boxes. It
takes the place of the widget manager, which weighs a hundred times as much.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

FOLDER = "tiny_lm/course/explorers"
MODEL = "_model.js"  # the numbers of an explorer, beside the file that draws them
EXPORT = "export default "
WIDGET = "application/vnd.jupyter.widget-view+json"
BOX = re.compile(r'<div data-explorer="(\w+)"')

# `explorer` is what the module exports; the box's data stand in for a kernel's model.
MOUNT = """
for (const el of document.querySelectorAll('[data-explorer="{name}"]')) {{
  const state = JSON.parse(el.dataset.state);
  const model = {{
    get: (name) => state[name],
    set: (name, value) => (state[name] = value),
    save_changes: () => {{}},
    on: () => {{}},
    off: () => {{}},
  }};
  explorer.render({{ model, el }});
}}
"""


def page_script(name: str, kit: str, module: str) -> str:
    """An ordinary script that does on a page what the module does in a notebook.

    Raises:
        ExtensionError: the module does not export one thing.
    """
    if module.count(EXPORT) != 1:
        raise ExtensionError(f"{name}.js must have one `{EXPORT.strip()}`")
    body = kit + "\n" + module.replace(EXPORT, "const explorer = ")
    return f'(() => {{\n"use strict";\n{body}{MOUNT.format(name=name)}}})();\n'


def carry_explorers(app: Sphinx) -> None:
    """Write every explorer's script and their style into the site."""
    folder, target = Path(app.srcdir, FOLDER), Path(app.outdir, "_static", "explorers")
    if not folder.is_dir():
        return
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(folder / "explorer.css", target)
    for model in folder.glob(f"*{MODEL}"):
        name = model.name.removesuffix(MODEL)
        files = (folder / "kit.js", model, folder / f"{name}.js")
        *shared, module = (file.read_text(encoding="utf-8") for file in files)
        script = page_script(name, "\n".join(shared), module)
        (target / f"{name}.js").write_text(script, encoding="utf-8")


def load_explorers(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Load on each page the explorers that it shows, and no others.

    Raises:
        ExtensionError: a page shows an explorer that has no script, or a widget that
            would be dead without a kernel.
    """
    body = context.get("body", "")
    if f'<script type="{WIDGET}">' in body:
        raise ExtensionError(f"{page} shows a widget that needs a kernel")
    for name in sorted(set(BOX.findall(body))):
        if not Path(app.outdir, "_static", "explorers", f"{name}.js").is_file():
            raise ExtensionError(f"{page} shows the explorer {name}: no {name}.js")
        app.add_css_file("explorers/explorer.css")
        app.add_js_file(f"explorers/{name}.js", loading_method="defer")


def drop_widget_manager(app: Sphinx, env: Any) -> None:
    """The manager that the book tool adds, from another server, and its state."""
    for data in getattr(env, "nb_metadata", {}).values():
        files = data.get("js_files", {})
        for key in [key for key in files if key.startswith("ipywidgets")]:
            del files[key]


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", carry_explorers)
    app.connect("env-updated", drop_widget_manager)
    app.connect("html-page-context", load_explorers)
