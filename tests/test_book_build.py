"""The build keeps its promises: fresh numbers, no dead button, nothing from others.

A miniature book in a folder of its own, with the course's settings and extension.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parents[1]
SHARED = (
    *("_config.yml", "_ext", "_static", "references.bib"),
    *("constraints.txt", "pyproject.toml"),
)
sys.path.insert(0, str(ROOT / "_ext"))
import captions  # noqa: E402
import execution_key  # noqa: E402

HEADER = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3}
---
"""
PAGE = """# A page

```{code-cell} ipython3
from pathlib import Path
from tiny_lm import config
Path("runs.txt").open("a").write("run\\n")
print("The width is", config.tiny().d_model)
```

```{card-front}
**Question.** How wide?
**You will be able to** say it.
**Code** `tiny_lm/config.py` · **Needs** nothing
```

:::{admonition} One question?
:class: dropdown
An answer.
:::

:::{after-lab} 1.2, 1.3
Our code.
:::

See {fig}`second`.

```{code-cell} ipython3
:tags: [hide-input]
class Shown:
    def _repr_html_(self):
        place = '<span class="caption-number" data-kind="Figure"></span>'
        return (f'<figure><figcaption>{place}One</figcaption></figure>'
                f'<figure class="drawing" id="fig-second"><figcaption>{place}Two'
                '</figcaption></figure>')
Shown()
```
"""
TOC = """format: jb-book
root: chapters/index
chapters:
  - file: labs/01_lab
"""


def write_lab(path: Path) -> None:
    cells = [nbformat.v4.new_markdown_cell("# A lab"), nbformat.v4.new_code_cell("1")]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    lexer = {"name": "python", "pygments_lexer": "ipython3"}
    kernel = {"name": "python3", "display_name": "Python 3"}
    metadata = {"kernelspec": kernel, "language_info": lexer}
    path.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """A book of one page and one lab, and a copy of the module that it reads."""
    if not (ROOT / "node_modules").is_dir():
        pytest.skip("NOT TESTED, the browser files are missing: run `make book`")
    folder = tmp_path_factory.mktemp("book")
    for name in SHARED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    (folder / "node_modules").symlink_to(ROOT / "node_modules")
    (folder / "tiny_lm").mkdir()
    for name in ("__init__.py", "config.py"):
        shutil.copy(ROOT / "tiny_lm" / name, folder / "tiny_lm" / name)
    (folder / "chapters").mkdir()
    (folder / "chapters" / "index.md").write_text(HEADER + PAGE)
    write_lab(folder / "labs" / "01_lab.ipynb")
    (folder / "_toc.yml").write_text(TOC)
    for other in (".pytest_cache", ".venv/lib", "runs", "labs/.ipynb_checkpoints"):
        (folder / other).mkdir(parents=True)
        (folder / other / "README.md").write_text("# Not a page of the book\n")
    return folder


def build(book: Path) -> subprocess.CompletedProcess:
    """What `make book` runs, with the copy's modules instead of the course's."""
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "."]
    return subprocess.run(
        [*command, "-W", "-n", "--keep-going"],
        cwd=book,
        env=os.environ | {"PYTHONPATH": str(book), "JUPYTER_PLATFORM_DIRS": "1"},
        capture_output=True,
        text=True,
    )


def page(book: Path, name: str = "chapters/index") -> str:
    ran = build(book)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    return (book / "_build" / "html" / f"{name}.html").read_text()


def times_run(book: Path) -> int:
    return len((book / "chapters" / "runs.txt").read_text().splitlines())


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_changed_module_changes_the_number_on_the_page(book):
    assert "The width is 128" in page(book)
    assert times_run(book) == 1
    assert "The width is 128" in page(book)
    assert times_run(book) == 1, "nothing changed, and the page ran again"
    replace(book / "tiny_lm" / "config.py", "d_model=128", "d_model=160")
    html = page(book)
    assert "The width is 160" in html and "The width is 128" not in html
    assert times_run(book) == 2


def test_the_card_has_a_line_for_each_sentence_and_a_list_of_facts(book):
    card = page(book).split('<div class="front-card baseline"')[1].split("</div>")[0]
    assert card.count("<li>") == 3 and card.count("<strong>") == 4
    assert "1 minute</p>" in card


def test_folds_are_the_browsers_own_and_say_what_they_hold(book):
    html = page(book)
    question = html.split('<details class="fold question"><summary>')[1]
    assert question.startswith(
        'One question?</summary><div class="folded"><p>An answer.'
    )
    assert "After the lab (tasks 1.2, 1.3): our code</summary>" in html
    assert "Show the code" in html and "Toggle hidden content" not in html


def test_figures_are_numbered_as_they_stand_and_a_link_leads_to_one(book):
    html = page(book)
    assert '<span class="caption-number">Figure 1.</span> One' in html
    assert '<span class="caption-number">Figure 2.</span> Two' in html
    assert '<a class="to-figure" href="#fig-second">figure 2</a>' in html


def test_a_link_to_a_figure_that_is_not_there_is_refused():
    with pytest.raises(ExtensionError, match="a/page has no figure or table named 'x'"):
        captions.number('<a class="to-figure" data-name="x"></a>', "a/page")


def test_a_changed_style_reaches_the_site(book):
    page(book)
    (book / "_static" / "course.css").write_text("/* another look */")
    page(book)
    built = book / "_build" / "html" / "_static" / "course.css"
    assert built.read_text() == "/* another look */"


def test_colab_and_source_buttons_wait_for_a_public_address(book):
    assert "colab" not in page(book, "labs/01_lab").lower()
    assert "source-repository-button" not in page(book, "labs/01_lab")
    project = book / "pyproject.toml"
    without = project.read_text()
    address = 'Repository = "https://github.com/someone/course"'
    replace(project, "[project.urls]", f"[project.urls]\n{address}")
    lab = page(book, "labs/01_lab")
    assert "/github/someone/course/blob/main/labs/01_lab.ipynb" in lab
    assert "source-repository-button" in lab
    chapter = (book / "_build" / "html" / "chapters" / "index.html").read_text()
    assert "colab" not in chapter.lower(), "Colab cannot open a Markdown page"
    project.write_text(without)


def test_the_build_stops_at_a_picture_from_another_server(book):
    index = book / "chapters" / "index.md"
    whole = index.read_text()
    index.write_text(whole + '\n<img src="https://elsewhere.example/a.png" alt="a">\n')
    ran = build(book)
    index.write_text(whole)
    assert ran.returncode != 0
    assert "index.html: <img src=https://elsewhere.example/a.png>" in ran.stderr


MEETS = """# A page that waits for another

```{code-cell} ipython3
import os, time
from pathlib import Path
Path("NAME.here").touch()
for _ in range(300):
    if Path("OTHER.here").exists():
        break
    time.sleep(0.1)
Path("NAME.runs").open("a").write(os.environ.get("OMP_NUM_THREADS", ""))
print("met" if Path("OTHER.here").exists() else "alone")
```
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_pages_run_side_by_side_and_once_but_one_that_measures_time_alone(book):
    toc = (book / "_toc.yml").read_text()
    pages = ("one", "two", "timed")
    for name, other in zip(pages, ("two", "one", "one"), strict=True):
        text = MEETS.replace("NAME", name).replace("OTHER", other)
        if name == "timed":
            text = text.replace("import os", "import timeit, os")
        (book / "chapters" / f"{name}.md").write_text(HEADER + text)
    more = "".join(f"  - file: chapters/{name}\n" for name in pages)
    (book / "_toc.yml").write_text(toc + more)
    ran = build(book)
    (book / "_toc.yml").write_text(toc)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    assert "ran chapters/one.md" in ran.stdout
    assert "ran chapters/timed.md" not in ran.stdout
    for name in ("one", "two"):
        assert "met" in (book / "_build/html/chapters" / f"{name}.html").read_text()
        assert (book / "chapters" / f"{name}.runs").read_text() == "1", "ran twice"


@pytest.fixture
def code(tmp_path) -> Path:
    (tmp_path / "tiny_lm").mkdir()
    (tmp_path / "tiny_lm" / "a.py").write_text("one = 1")
    (tmp_path / "chapters" / "_results").mkdir(parents=True)
    (tmp_path / "constraints.txt").write_text("torch==2.13.0")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["tiny_lm/a.py", "tiny_lm/b.py", "chapters/_results/r.json", "constraints.txt"],
)
def test_the_key_of_the_cache_changes_with(code, name):
    before = execution_key.execution_key(code)
    assert execution_key.execution_key(code) == before
    (code / name).write_text("another")
    assert execution_key.execution_key(code) != before


@pytest.mark.parametrize(
    "name", ["_static/course.css", "_ext/a.py", "explorers/a.js", "explorers/a.css"]
)
def test_the_look_of_the_pages_changes_with(code, name):
    path = code / name.replace("explorers", "tiny_lm/course/explorers")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("one")
    assert path in execution_key.look(code)
    before = execution_key.digest(code, execution_key.look(code))
    path.write_text("another")
    assert execution_key.digest(code, execution_key.look(code)) != before


def test_old_caches_are_removed_and_recent_ones_kept(code, tmp_path):
    folders = []
    for version in range(5):
        (code / "tiny_lm" / "a.py").write_text(f"version = {version}")
        folders.append(execution_key.cache_folder(code, tmp_path / "_build"))
        os.utime(folders[-1], (version, version))
    assert [folder.is_dir() for folder in folders] == [False, False, True, True, True]


def test_a_second_build_in_the_same_folder_is_refused(tmp_path):
    hold = f"""
import sys; from pathlib import Path; sys.path.insert(0, {str(ROOT / "_ext")!r})
import execution_key; execution_key.hold(Path({str(tmp_path)!r}))
"""
    execution_key.hold(tmp_path)
    execution_key.hold(tmp_path)  # the same build asks twice
    command = [sys.executable, "-c", hold]
    second = subprocess.run(command, capture_output=True, text=True)
    assert f"another build is at work in {tmp_path}" in second.stderr
    execution_key._held.pop(tmp_path).close()
    subprocess.run(command, check=True)
