"""What explorers say is what `tiny_lm` says, and a notebook or a page can show them."""

import base64
import html
import json
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from sphinx.errors import ExtensionError

from tiny_lm.config import tiny
from tiny_lm.counts import count_parameters
from tiny_lm.course.explorers import balance, widgets
from tiny_lm.course.explorers.balance import Course, Setting, simulate
from tiny_lm.course.figures.style import COLORS

sys.path.insert(0, str(widgets.FOLDER.parents[2] / "_ext"))
import explorers  # noqa: E402


def test_the_hash_never_gives_one_number_twice():
    assert balance.mix(torch.tensor([0])).item() == 0
    hashed = balance.mix(torch.arange(2**16))
    assert len(hashed.unique()) == 2**16 and 0 <= hashed.min() and hashed.max() < 2**32


def test_experts_are_liked_in_order_and_alike_without_skew():
    liked = balance.affinities(8, 4.0).mean(dim=0)
    assert (liked.diff() < 0).all() and liked[0] - liked[-1] > 0.5
    assert balance.affinities(8, 0.0).mean(dim=0).sub(0.5).abs().max() < 0.03


@pytest.mark.parametrize("num_experts", balance.NUM_EXPERTS)
def test_no_two_experts_ever_tie_and_no_score_hangs_on_a_last_bit(num_experts):
    """One exponential may differ by a last bit; no grid point may depend on it."""
    for skew in balance.SKEWS:
        points = balance.scores(num_experts, skew) * balance.GRID
        owner = torch.arange(num_experts).expand_as(points)
        assert torch.equal(points.long() % balance.MOST, owner)
        assert 0 <= points.min() and points.max() < balance.GRID
        fine = balance.affinities(num_experts, skew) * (balance.GRID // balance.MOST)
        fine = fine[fine != balance.GRID // balance.MOST / 2]  # logit 0: exact anywhere
        assert (fine - fine.round()).abs().min() > 1e-9


def test_without_skew_all_are_busy_and_with_much_of_it_few():
    assert simulate(Setting(skew=0)).violations[0] < 0.25
    collapsed = simulate(Setting(skew=6))
    assert collapsed.violations[0] > 2 and min(collapsed.loads[0]) < 5


def test_without_a_rate_nothing_ever_changes():
    still = simulate(Setting(bias_rate=0.0))
    assert all(load == still.loads[0] for load in still.loads)
    assert still.outcome == "later"


def test_every_token_is_counted_for_each_of_its_choices():
    course = simulate(Setting(num_experts=32, top_k=3))
    assert len(course.loads) == len(course.violations) == balance.NUM_UPDATES + 1
    assert {sum(load) for load in course.loads} == {3 * balance.NUM_TOKENS}


def test_half_the_rate_takes_twice_as_long():
    slow, fast = (simulate(Setting(bias_rate=r)).outcome for r in (0.001, 0.002))
    assert slow / fast == pytest.approx(2, abs=0.1)


def test_a_rate_is_too_small_for_the_time_or_too_large_for_ever():
    assert simulate(Setting(skew=6, bias_rate=0.001)).outcome == "later"
    assert simulate(Setting(skew=6, bias_rate=0.1)).outcome == "never"


def test_a_run_is_judged_by_its_end():
    long, end = balance.NUM_UPDATES + 1, balance.LASTING
    level, tilted, other = [2, 2], [3, 1], [1, 3]

    def judged(loads):
        return Course(loads, [(max(load) - 2) / 2 for load in loads]).outcome

    assert judged([level] * long) == 0
    assert judged([tilted] * 7 + [level] * (long - 7)) == 7
    assert judged([tilted] * (long - end) + [level] * end) == long - end
    assert judged([tilted] * (long - end + 1) + [level] * (end - 1)) == "never"
    assert judged([tilted] * long) == "later"
    assert judged([tilted, other] * long) == "never"


def test_parameters_are_those_of_a_layer_of_tiny():
    count, layers = count_parameters(tiny()), tiny().num_moe_layers
    parts = ("shared_experts", "routed_experts", "router")
    assert balance.parameters(16, 4) == (
        sum(count.by_part[part] for part in parts) / layers,
        sum(count.active_by_part[part] for part in parts) / layers,
    )
    assert balance.parameters(32, 4)[1] - balance.parameters(16, 4)[1] == 16 * 128
    assert balance.parameters(16, 5)[1] > balance.parameters(16, 4)[1]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_experts", 7, r"num_experts must be one of \[4, 8, 16, 32, 64\], got 7"),
        ("top_k", 9, r"top_k must be one of \[1, 2, 3, 4, 5, 6, 7, 8\], got 9"),
        ("skew", 0.3, r"skew must be one of \[0.0, 0.5, .*\], got 0.3"),
        ("bias_rate", 0.003, r"bias_rate must be one of \[0.0, 0.001, .*\], got 0.003"),
        ("step", 301, r"step must be one of range\(0, 301\), got 301"),
    ],
)
def test_a_place_that_a_slider_lacks_is_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        widgets.balance_explorer(**{name: value})


def test_no_token_can_choose_more_experts_than_there_are():
    with pytest.raises(ValueError, match=r"top_k must be one of \[1, 2, 3, 4\], got 5"):
        Setting(num_experts=4, top_k=5)


START = dict(num_experts=8, top_k=2, skew=1.0, bias_rate=0.01, step=40)


def test_an_explorer_starts_where_it_is_told():
    explorer = widgets.balance_explorer(**START)
    assert explorer.choice == START
    assert explorer.fixed["color"] == COLORS["moe"]
    assert explorer._esm.count("export default") == 1


def test_a_notebook_gets_the_widget_and_a_page_its_box():
    explorer = widgets.balance_explorer(**START)
    data, _ = explorer._repr_mimebundle_()
    widget = data["application/vnd.jupyter.widget-view+json"]
    assert widget["model_id"] == explorer.model_id
    assert data["text/plain"] == balance.alternative(Setting(**START))
    state = re.search(r'data-explorer="balance" data-state="(.*?)"', data["text/html"])
    state = json.loads(html.unescape(state[1]))
    assert state["choice"] == START
    assert state["fixed"]["bias_rates"] == list(balance.BIAS_RATES)


def test_colab_gets_the_widget_alone(monkeypatch):
    """Which of two it would show is not for us to say."""
    explorer = widgets.balance_explorer()
    colab = ModuleType("google.colab")
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    data, _ = explorer._repr_mimebundle_()
    assert "text/html" not in data
    assert "application/vnd.jupyter.widget-view+json" in data


def test_the_box_holds_a_picture_of_the_start_and_its_words():
    box = widgets.balance_explorer(**START).box()
    picture = re.search(r'<img alt="(.*?)" src="data:image/svg\+xml;base64,(.*?)"', box)
    assert "each of 8 experts" in picture[1] and "after 40 updates" in picture[1]
    assert COLORS["moe"].lower() in base64.b64decode(picture[2]).decode().lower()


# --- what the book's extension does with a box ---


def test_a_module_becomes_a_script_that_fills_its_boxes():
    script = explorers.page_script("a", "const kit = 1;", "export default { render };")
    assert "const explorer = { render };" in script and "export" not in script
    assert """querySelectorAll('[data-explorer="a"]')""" in script


@pytest.mark.parametrize("module", ["", "export default 1; export default 2;"])
def test_a_module_that_exports_not_one_thing_is_refused(module):
    with pytest.raises(ExtensionError, match="a.js must have one `export default`"):
        explorers.page_script("a", "", module)


class Book(SimpleNamespace):
    """As much of Sphinx as the extension asks of it."""

    def add_css_file(self, name):
        self.loaded.append(name)

    def add_js_file(self, name, loading_method):
        self.loaded.append(name)


def load(tmp_path, body: str) -> list[str]:
    book = Book(outdir=tmp_path, loaded=[])
    explorers.load_explorers(book, "a page", "", {"body": body}, None)
    return book.loaded


def test_a_page_loads_the_explorers_that_it_shows(tmp_path):
    carried = Book(srcdir=widgets.FOLDER.parents[2], outdir=tmp_path)
    explorers.carry_explorers(carried)
    box = widgets.balance_explorer().box()
    wanted = ["explorers/explorer.css", "explorers/balance.js"]
    assert load(tmp_path, box + box) == wanted
    assert load(tmp_path, "<p>text</p>") == []
    files = {file.name for file in (tmp_path / "_static" / "explorers").iterdir()}
    scripts = {"balance.js", "timeline.js", "context.js", "codes.js"} | {"pipeline.js"}
    assert files == scripts | {"explorer.css"}


def test_an_explorer_without_a_script_stops_the_build(tmp_path):
    with pytest.raises(ExtensionError, match="a page shows the explorer b: no b.js"):
        load(tmp_path, '<div data-explorer="b" data-state="">')


def test_a_widget_that_needs_a_kernel_stops_the_build(tmp_path):
    script = '<script type="application/vnd.jupyter.widget-view+json">{}</script>'
    with pytest.raises(ExtensionError, match="a widget that needs a kernel"):
        load(tmp_path, script)


def test_the_book_tools_widget_manager_is_left_out():
    files = {"ipywidgets_state": (None, {}), "ipywidgets_0": ("https:", {}), "own": 1}
    env = SimpleNamespace(nb_metadata={"a page": {"js_files": files}, "another": {}})
    explorers.drop_widget_manager(None, env)
    assert files == {"own": 1}
