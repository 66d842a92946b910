"""Honest notebooks of lab 02 in ten styles: each keeps every point.

A style is an edit of the notebook that holds our answers.
"""

import copy
import re

import nbformat
from nbformat import NotebookNode
from submissions import answer, cell, put, solved

LOOPS = {
    "2.1": """
def score_and_choose(x, centroids, top_k):
    scores = torch.stack([torch.stack([(t * c).sum() for c in centroids]) for t in x])
    scores = 1 / (1 + torch.exp(-scores))
    best = [sorted(range(len(row)), key=lambda e: -row[e])[:top_k] for row in scores]
    return scores, torch.tensor(best).view(len(x), top_k)
""",
    "2.2": """
def gate(scores, bias, top_k, route_scale):
    weights, experts = [], []
    for row, added in zip(scores, bias.expand_as(scores)):
        ids = (row + added).sort(descending=True).indices[:top_k]
        experts.append(ids)
        weights.append(row[ids] * route_scale / row[ids].sum())
    return torch.stack(weights), torch.stack(experts)
""",
    "2.4": """
def run_experts(x, experts, weights, gate_up, down):
    y = torch.zeros_like(x)
    for e in range(len(gate_up)):
        for j in range(experts.shape[1]):
            mine = torch.where(experts[:, j] == e)[0]
            g, u = torch.chunk(x[mine] @ gate_up[e].t(), 2, -1)
            out = F.silu(g) * u @ down[e].t() * weights[mine, j].unsqueeze(-1)
            y = y.index_add(0, mine, out)
    return y
""",
    "2.5": """
def load_and_violation(experts, num_experts):
    load = torch.zeros(num_experts, dtype=torch.int64)
    for e in experts.flatten().tolist():
        load[e] += 1
    mean = sum(load.tolist()) / num_experts
    if mean == 0:
        return load, 0.0
    return load, (max(load.tolist()) - mean) / mean
""",
    "2.6": """
def update_bias(bias, load, rate):
    new = []
    mean = sum(load.tolist()) / len(load)
    for b, n in zip(bias, load.tolist()):
        if n < mean:
            new.append(b + rate)
        elif n > mean:
            new.append(b - rate)
        else:
            new.append(b + 0)
    return torch.stack(new)
""",
}

EINSUM = {
    "2.1": """
def score_and_choose(tokens, directions, how_many):
    affinity = torch.einsum("n d, e d -> n e", tokens, directions).sigmoid()
    return affinity, torch.argsort(affinity, dim=1, descending=True)[:, :how_many]
""",
    "2.7": """
def sequence_loss(affinity, ids):
    batch, length, num = affinity.shape
    ones = torch.ones(ids.shape, dtype=affinity.dtype)
    hot = torch.zeros_like(affinity.detach()).scatter_add(-1, ids, ones)
    f = torch.einsum("b t e -> b e", hot) * num / (ids.shape[-1] * length)
    share = torch.einsum("b t e, b t -> b t e", affinity, 1 / affinity.sum(-1))
    return torch.einsum("b e, b e -> b", f, share.mean(1)).mean()
""",
}


def ours(notebook: NotebookNode) -> None:
    """As `show_solution` prints them."""


def loops(notebook: NotebookNode) -> None:
    """Loops where ours has none; no type hints."""
    for task, source in LOOPS.items():
        answer(notebook, task, source)


def einsum_and_other_names(notebook: NotebookNode) -> None:
    """Other names of arguments, and functions that got their name later."""
    for task, source in EINSUM.items():
        answer(notebook, task, source)
    source = cell(notebook, "answer_2_6").source
    source = source.replace("def update_bias", "def nudge")
    answer(notebook, "2.6", source + "\n\nupdate_bias = nudge\n")


def helpers_in_other_cells(notebook: NotebookNode) -> None:
    """A helper, a number and an import in cells of one's own, notes between them."""
    helpers = ["import math as m", "LARGEST = True\nDIM = -1", HELPERS]
    put(notebook, "2.1", *helpers, note="My **helpers**: *best* takes the top k.")
    answer(
        notebook,
        "2.1",
        "def score_and_choose(x, centroids, top_k):\n"
        "    scores = squash(x @ centroids.T)\n"
        "    return scores, best(scores, top_k)\n",
    )
    answer(
        notebook,
        "2.2",
        "def gate(scores, bias, top_k, route_scale):\n"
        "    experts = best(scores + bias, top_k)\n"
        "    chosen = scores.gather(DIM, experts)\n"
        "    return normed(chosen) * route_scale, experts\n\n"
        "def normed(rows):\n"
        "    return rows / rows.sum(DIM, keepdim=True)\n",
    )


HELPERS = """
def best(rows, k):
    return _sorted(rows)[..., :k]

def _sorted(rows):
    return rows.argsort(dim=DIM, descending=LARGEST)

def squash(z):
    return 1 / (1 + torch.pow(torch.tensor(m.e, dtype=z.dtype), -z))
"""


def extra_cells(notebook: NotebookNode) -> None:
    """Trials, pictures, magics and mistakes that were left standing."""
    put(notebook, "2.1", "%matplotlib inline\n%time 1 + 1", "!echo hello\nx = !pwd")
    put(notebook, "2.2", "score_and_choose?", "1 / 0", "print(score_and_choose)")
    put(notebook, "2.3", "gate(torch.rand(2, 4), torch.zeros(4), 2, 1.0)[0].sum(-1)")
    put(notebook, "2.4", "%%time\nplt.plot([1, 2])\nplt.show()", "def unfinished(x")
    put(notebook, "2.5", "%%bash\nls", "raise SystemExit", "input('your name? ')")
    last = nbformat.v4.new_code_cell("del score_and_choose\ngate = 3")
    notebook.cells.append(last)


def all_in_one_cell(notebook: NotebookNode) -> None:
    """Every answer in the first answer cell, the later ones first."""
    names = [c.id for c in notebook.cells if c.id.startswith("answer_")]
    sources = [cell(notebook, name).source for name in names]
    for name in names:
        cell(notebook, name).source = "# see above"
    cell(notebook, names[0]).source = "\n\n\n".join(reversed(sources))


def tries_below_the_answer(notebook: NotebookNode) -> None:
    """Trials, prints and assertions in the answer's own cell; names used again."""
    first = cell(notebook, "answer_2_1")
    first.source += (
        "\n\ns, e = score_and_choose(torch.randn(3, 4), torch.randn(5, 4), 2)"
        "\nprint(s.shape)\nassert e.shape == (3, 2)\n"
        "scores, experts, x = s, e, 3\n"
    )
    cell(notebook, "answer_2_2").source += (
        "\n\ntop_k = 2\nfor top_k in (1, 2):\n"
        "    print(gate(scores, torch.zeros(5), top_k, 1.0)[0].sum())\n"
    )
    cell(notebook, "answer_2_5").source += (
        "\n\ntry:\n    load_and_violation(None, None)\n"
        "except Exception as error:\n    print('as I thought:', error)\n"
    )


def unusual_forms(notebook: NotebookNode) -> None:
    """A lambda, a partial, an object that can be called, a decorator, a class."""
    answer(
        notebook,
        "2.1",
        "score_and_choose = lambda x, c, k: (\n"
        "    torch.sigmoid(x @ c.mT),\n"
        "    torch.sigmoid(x @ c.mT).topk(k, dim=-1)[1],\n)\n",
    )
    answer(
        notebook,
        "2.2",
        "class Gate(nn.Module):\n"
        "    def forward(self, scores, bias, top_k, route_scale):\n"
        "        ids = (scores + bias).topk(top_k).indices\n"
        "        picked = torch.take_along_dim(scores, ids, -1)\n"
        "        return picked / picked.sum(-1, keepdim=True) * route_scale, ids\n\n"
        "gate = Gate()\n",
    )
    answer(
        notebook,
        "2.5",
        "import functools\n\ncalls = []\n\n"
        "def logged(function):\n"
        "    @functools.wraps(function)\n"
        "    def inner(*given):\n"
        "        calls.append(len(calls))\n"
        "        return function(*given)\n"
        "    return inner\n\n"
        "@logged\n"
        "def load_and_violation(experts, num_experts):\n"
        "    load = F.one_hot(experts.reshape(-1), num_experts).sum(0)\n"
        "    mean = load.double().mean().item()\n"
        "    return load, (load.max().item() - mean) / mean if mean else 0.0\n",
    )
    answer(
        notebook,
        "2.6",
        "def moved(sign, bias, load, rate):\n"
        "    off = load.double().mean() - load\n"
        "    return bias + sign * rate * off.sign().to(bias)\n\n"
        "update_bias = functools.partial(moved, 1)\n",
    )


def as_colab_saves_it(notebook: NotebookNode) -> NotebookNode:
    """Ids and most metadata are gone, Colab's own are there, outputs too."""
    notebook.nbformat_minor = 0
    notebook.metadata = {"colab": {"provenance": []}, "kernelspec": {"name": "python3"}}
    for number, one in enumerate(notebook.cells):
        del one["id"]
        one.metadata = {"id": f"cO{number}lAb", **_kept(one)}
        if one.cell_type == "code":
            text = {"name": "stdout", "output_type": "stream", "text": ["hello\n"]}
            one.outputs, one.execution_count = [text], 99 - number
    return notebook


def _kept(one: NotebookNode) -> dict:
    return {k: v for k, v in one.metadata.items() if k == "nbgrader"}


def copied_over(notebook: NotebookNode) -> None:
    """Answers copied into new cells, the stubs deleted; other line ends, tabs."""
    cells = []
    for one in notebook.cells:
        if one.id.startswith("answer_"):
            source = one.source.replace("    ", "\t").replace("\n", "\r\n")
            one = nbformat.v4.new_code_cell(source)
        cells.append(one)
    notebook.cells = cells


def keeps_a_record(notebook: NotebookNode) -> None:
    """Globals that are written, a cache, types of one's own, float64 inside."""
    answer(
        notebook,
        "2.1",
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n\n"
        "@dataclass\nclass Choice:\n    scores: Tensor\n    experts: Tensor\n\n"
        "seen, count = {}, 0\n\n"
        "def score_and_choose(x: Tensor, centroids: Tensor, top_k: int) -> Choice:\n"
        "    global count\n"
        "    count += 1\n"
        "    seen[tuple(x.shape)] = count\n"
        "    wide = (x.double() @ centroids.double().T).sigmoid()\n"
        "    found = Choice(wide.to(x.dtype), wide.topk(top_k, dim=-1).indices)\n"
        "    return found.scores, found.experts\n",
    )
    source = cell(notebook, "answer_2_8").source
    source = re.sub(r"score_and_choose\(", "SCORE(", source)
    put(notebook, "2.8", "SCORE = score_and_choose")
    answer(notebook, "2.8", source)


STYLES = (
    ours,
    loops,
    einsum_and_other_names,
    helpers_in_other_cells,
    extra_cells,
    all_in_one_cell,
    tries_below_the_answer,
    unusual_forms,
    as_colab_saves_it,
    copied_over,
    keeps_a_record,
)


def honest(style) -> NotebookNode:
    """The notebook of a style."""
    notebook = copy.deepcopy(solved())
    return style(notebook) or notebook
