"""Pictures of the experts' part, and the few numbers that are read off its records.

Chapter: 02_moe
Source: course

The functions that take `runs` read those of a recorded experiment; each run has the
fields "label", "seed", "tokens", "val_loss" (nats per byte) and "flops_per_token".
"""

from collections.abc import Mapping, Sequence
from math import log, log2
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from tiny_lm.course.figures.style import (
    COLORS,
    FAINT,
    INK,
    MIDDLE,
    Drawing,
    color_key,
    finish,
    new_figure,
)

Run = Mapping[str, Any]
UNIT = 1e12  # of the axis that shows FLOPs
# Grey: less than its share; white: its share; blue: more.
LESS_OR_MORE = LinearSegmentedColormap.from_list(
    "less_or_more", ["#9A9A9A", "white", COLORS["moe"]]
)


def routing_grid(
    scores: Sequence[Sequence[float]],
    experts: Sequence[Sequence[int]],
    tokens: Sequence[str],
) -> Drawing:
    """Who reads whom? A row for each token, its chosen experts filled.

    Args:
        scores: [N, E], written into the cells.
        experts: [N, k], the chosen ones.
    """
    figure, ax = new_figure(0.62 * len(tokens) + 0.6)
    for row, (line, chosen) in enumerate(zip(scores, experts, strict=True)):
        for column, score in enumerate(line):
            on = column in chosen
            color = COLORS["moe"] if on else "white"
            ax.barh(row, 0.9, 0.8, left=column - 0.45, color=color, ec=FAINT)
            ink = "white" if on else INK
            ax.text(column, row, f"{score:.1f}", color=ink, **MIDDLE)
    ax.set_xticks(range(len(scores[0])), [f"expert {e}" for e in range(len(scores[0]))])
    ax.set_yticks(range(len(tokens)), tokens, fontfamily="DejaVu Sans Mono")
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlim=(-0.5, len(scores[0]) - 0.5))
    ax.invert_yaxis()
    return finish(figure)


def weights_read(
    shares: Mapping[str, Sequence[float]], num_tokens: Sequence[int]
) -> Drawing:
    """How many tokens at once until all of a layer's experts are read? A line a model.

    Args:
        shares: of the layer's routed experts, between 0 and 1.
    """
    figure, ax = new_figure(3.2)
    for number, (name, values) in enumerate(shares.items()):
        ax.plot(num_tokens, values, color=COLORS["moe"], ls=("-", "--", ":")[number])
        place = next(i for i, value in enumerate(values) if value > 0.5)
        right = number % 2 == 0  # neighbours are named on both sides of the pair
        where = {"textcoords": "offset points", "ha": "left" if right else "right"}
        look = {"color": COLORS["moe"], "fontweight": "bold"}
        beside = (8, -6) if right else (-8, 2)
        ax.annotate(name, (num_tokens[place], values[place]), beside, **where, **look)
    ax.set_xscale("log", base=2)
    ticks = list(num_tokens[::2])
    ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
    ax.set(xlabel="tokens at once", ylabel="share of the experts read", ylim=(0, 1.03))
    return finish(figure)


def runs_of(runs: Sequence[Run], label: str) -> list[Run]:
    """The runs of one label, by seed.

    Raises:
        ValueError: no run has that label.
    """
    found = sorted((r for r in runs if r["label"] == label), key=lambda r: r["seed"])
    if not found:
        known = ", ".join(sorted({run["label"] for run in runs}))
        raise ValueError(f"no run is labelled {label!r}; there are: {known}")
    return found


def reach(points: Sequence[tuple[float, float]], level: float) -> float | None:
    """Where a falling curve first comes down to `level`; None: it does not.

    Straight lines between the points; a curve that starts below gives its start.
    """
    before = None
    for x, y in points:
        if y <= level:
            if before is None:
                return x
            return before[0] + (before[1] - level) / (before[1] - y) * (x - before[0])
        before = x, y
    return None


def flops_so_far(run: Run) -> list[float]:
    """What the training had cost at each measurement."""
    return [tokens * run["flops_per_token"] for tokens in run["tokens"]]


def total_flops(run: Run) -> float:
    """What the whole training cost."""
    return flops_so_far(run)[-1]


def by_length(runs: Sequence[Run], budget: float) -> dict[float, list[float]]:
    """Final losses of all seeds, by the share of a budget of FLOPs, shortest first."""
    found: dict[float, list[float]] = {}
    for run in sorted(runs, key=total_flops):
        share = round(total_flops(run) / budget, 2)
        found.setdefault(share, []).append(run["final_val_loss"])
    return found


def equal_flops(
    runs: Sequence[Run],
    labels: Sequence[str],
    shorter: Sequence[Run] = (),
    skip: int = 0,
) -> Drawing:
    """Which model learns more from the same FLOPs? Mean of the seeds, and the spread.

    Args:
        labels: the last one is the baseline, in grey, its last loss a thin line.
        shorter: runs with a schedule of their own, a dot where each of them ends.
        skip: measurements left out at the start, where all losses fall steeply.
    """
    figure, ax = new_figure(3.8)
    for label in labels:
        is_baseline = label == labels[-1]
        color = COLORS["baseline" if is_baseline else "moe"]
        flops, mean = _draw_seeds(ax, runs_of(runs, label), skip, color)
        word = {"va": "center", "fontweight": "bold", "color": color}
        ax.text(flops[-1] * 1.02, mean[-1], label, **word)
    ax.plot((0, flops[-1]), (mean[-1], mean[-1]), color=FAINT, lw=1.5, zorder=0)
    for run in shorter:
        end = total_flops(run) / UNIT, run["final_val_loss"] / log(2)
        ax.plot(*end, "o", color=COLORS["moe"], mfc="white", ms=5)
    ax.set(xlabel="training FLOPs, in 10¹²", ylabel="validation, bits per byte")
    ax.set_xlim(0, flops[-1] * 1.2)
    ax.margins(y=0.1)
    return finish(figure)


def _draw_seeds(
    ax: Axes, runs: Sequence[Run], skip: int, color: str
) -> tuple[list[float], list[float]]:
    """Lowest to highest seed as a band, their mean as a line."""
    flops = [count / UNIT for count in flops_so_far(runs[0])][skip:]
    columns = list(zip(*(run["val_loss"][skip:] for run in runs), strict=True))
    bits = [[loss / log(2) for loss in losses] for losses in columns]
    mean = [fmean(losses) for losses in bits]
    band = [min(losses) for losses in bits], [max(losses) for losses in bits]
    ax.fill_between(flops, *band, color=color, alpha=0.25, lw=0)
    ax.plot(flops, mean, color=color, lw=2)
    return flops, mean


def every_run(groups: Mapping[str, Sequence[Run]], skip: int = 0) -> Drawing:
    """When do runs of one model part? A thin line for each run; the last is grey."""
    figure, ax = new_figure(3.4)
    for label, runs in groups.items():
        color = COLORS["baseline" if label == list(groups)[-1] else "moe"]
        for run in runs:
            tokens = [count / 1e6 for count in run["tokens"][skip:]]
            bits = [loss / log(2) for loss in run["val_loss"][skip:]]
            ax.plot(tokens, bits, color=color, lw=1)
        word = {"va": "center", "fontweight": "bold", "color": color}
        last = fmean(run["val_loss"][-1] for run in runs) / log(2)
        ax.text(tokens[-1] * 1.02, last, label, **word)
    ax.set(xlabel="training tokens, in millions", ylabel="validation, bits per byte")
    ax.set_xlim(0, tokens[-1] * 1.2)
    return finish(figure)


def more_experts(runs: Sequence[Run]) -> Drawing:
    """Does the loss go on falling with more experts? The final loss of each run.

    runs: labels are numbers of experts.
    """
    figure, ax = new_figure(3.0)
    ordered = sorted(runs, key=lambda run: int(run["label"]))
    counts = [int(run["label"]) for run in ordered]
    bits = [run["final_val_loss"] / log(2) for run in ordered]
    ax.plot(counts, bits, "-o", color=COLORS["moe"])
    ax.set_xscale("log", base=2)
    ax.set_xticks(counts, [str(count) for count in counts])
    for place, (count, value) in enumerate(zip(counts, bits, strict=True)):
        rises = place + 1 < len(bits) and bits[place + 1] > value
        beside = (0, -15) if rises else (5, 6)  # where the line does not go on
        look = {"textcoords": "offset points", "fontsize": 9.5}
        ax.annotate(f"{value:.3f}", (count, value), beside, **look)
    ax.set(xlabel="routed experts in a layer", ylabel="validation, bits per byte")
    ax.margins(x=0.08, y=0.25)
    return finish(figure)


def readers(
    shares: Sequence[Sequence[Sequence[float]]],
    corpus: Sequence[float],
    kinds: Sequence[str],
    limit: float = 4.0,
) -> Drawing:
    """What does each expert read? More (blue) or less (grey) of a kind than its share.

    Args:
        shares: [layers, experts, kinds], of an expert's tokens.
        corpus: [kinds], of all tokens.
        limit: this many times the corpus share, or more, is the darkest blue.
    """
    figure, axes = new_figure(0.19 * len(shares[0]) + 1.7, columns=len(shares))
    axes = [axes] if len(shares) == 1 else list(axes)
    for layer, (ax, experts) in enumerate(zip(axes, shares, strict=True)):
        image = [
            [_times(*pair, limit) for pair in zip(expert, corpus, strict=True)]
            for expert in experts
        ]
        edge = {"vmin": -log2(limit), "vmax": log2(limit), "ec": "white", "lw": 0.5}
        mesh = ax.pcolormesh(image, cmap=LESS_OR_MORE, **edge)
        ax.set_xticks([k + 0.5 for k in range(len(kinds))], kinds, rotation=90)
        ax.set_yticks([e + 0.5 for e in range(0, len(experts), 5)])
        ax.set_yticklabels(str(e) for e in range(0, len(experts), 5))
        ax.set_title(f"MoE layer {layer + 1}", fontsize=10.5)
        ax.tick_params(length=0, labelsize=9)
        ax.invert_yaxis()
    axes[0].set_ylabel("expert")
    color_key(figure, mesh, axes, "times its share of the text")
    bar = figure.axes[-1]
    places = [-log2(limit), 0, log2(limit)]
    bar.set_yticks(places, [f"1/{limit:g}", "1", f"{limit:g}"])
    return finish(figure)


def _times(share: float, of_corpus: float, limit: float) -> float:
    """How many times its share is read, as a binary logarithm, within limits."""
    ratio = share / of_corpus if of_corpus else 1.0
    return log2(min(max(ratio, 1 / limit), limit))


def told(counts: Sequence[Sequence[float]]) -> float:
    """What share of the surprise about a token's kind does its expert take away?

    0: experts read alike; 1: the expert tells the kind. (Mutual information of the
    two, divided by the entropy of the kinds.)

    counts: [experts, kinds], of one layer.
    """
    total = sum(map(sum, counts))
    kinds = [sum(column) for column in zip(*counts, strict=True)]
    before = _entropy(kinds)
    after = sum(sum(row) / total * _entropy(row) for row in counts)
    return 1 - after / before


def _entropy(counts: Sequence[float]) -> float:
    total = sum(counts)
    return -sum(n / total * log2(n / total) for n in counts if n)
