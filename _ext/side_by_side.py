"""Pages run side by side before they are read, one for each core.

The book tool runs a page when it is read, and reads one after the other, so that cores
stay idle: much of a page is Python, which uses one. Here all pages whose results are
not kept yet run first, several at once, with one thread each, and leave their results
where the reader looks for them. A page that measures time is left to the reader, which
gives it the machine for itself; one that fails too, and the reader says why.
"""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_cache import get_cache
from myst_nb.core.execute.cache import NotebookClientCache
from myst_nb.core.read import create_nb_reader
from nbformat import NotebookNode
from sphinx.application import Sphinx

MEASURES_TIME = re.compile(r"\b(timeit|perf_counter|process_time)\b")


class Silent:
    """Says nothing of a page: the reader will."""

    def __getattr__(self, level: str) -> Any:
        return lambda *args, **options: None


def code_of(notebook: NotebookNode) -> str:
    """The text of all code cells."""
    cells = (c.source for c in notebook.cells if c.cell_type == "code")
    return "\n".join(cells)


def waiting(env: Any, pages: list[str]) -> Iterator[NotebookClientCache]:
    """What has to run, page by page; later parts first, which train larger models."""
    config = env.mystnb_config
    cache = get_cache(config.execution_cache_path)
    for page in sorted(pages, reverse=True):
        path = Path(env.doc2path(page))
        text = path.read_text(encoding="utf-8")
        reader = create_nb_reader(str(path), env.myst_config, config, text)
        if path.suffix != ".md" or reader is None:
            continue
        notebook = reader.read(text)
        if MEASURES_TIME.search(code_of(notebook)):
            continue
        try:
            cache.match_cache_notebook(notebook)
        except KeyError:
            yield NotebookClientCache(
                notebook, path, config, Silent(), read_fmt=reader.read_fmt
            )


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Kernels started inside the `with` compute with one thread."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def run_ahead(app: Sphinx, env: Any, pages: list[str]) -> None:
    """Run the pages that have to, as many at once as there are cores."""
    if env.mystnb_config.execution_mode != "cache":
        return
    clients = list(waiting(env, pages))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if min(len(clients), cores) < 2:
        return

    def run(client: NotebookClientCache) -> None:
        client.start_client()
        seconds = client.exec_metadata["runtime"]
        page = os.path.relpath(client.path, app.srcdir)
        print(f"  ran {page}: {seconds:.0f} s", flush=True)

    print(f"  {len(clients)} pages to run, {cores} at once", flush=True)
    with one_thread_each(), ThreadPoolExecutor(cores) as pool:
        list(pool.map(run, clients))


def setup(app: Sphinx) -> None:
    app.connect("env-before-read-docs", run_ahead, priority=900)
