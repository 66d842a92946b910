"""Pictures of the experts' part: who reads what, what it costs, what it buys.

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

from tiny_lm.course.canvas import COLORS, FAINT, INK, Drawing, finish, new_figure

Run = Mapping[str, Any]
STYLES = {"moe": "-", "dense": "--"}
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
            shown = {"color": "white" if on else INK, "ha": "center", "va": "center"}
            ax.text(column, row, f"{score:.1f}", **shown)
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
        ax.annotate(
            name,
            (num_tokens[place], values[place]),
            (8, -6),
            textcoords="offset points",
            color=COLORS["moe"],
            fontweight="bold",
        )
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


def flops_to_reach(run: Run, level: float) -> float | None:
    """Training FLOPs until the validation loss first falls to `level`; None: never.

    Between two measurements the loss is taken to fall in a straight line.
    """
    before: tuple[float, float] | None = None
    for tokens, loss in zip(run["tokens"], run["val_loss"], strict=True):
        if loss <= level:
            share = (before[1] - level) / (before[1] - loss) if before else 1.0
            start = before[0] if before else tokens
            return (start + share * (tokens - start)) * run["flops_per_token"]
        before = (tokens, loss)
    return None


def total_flops(run: Run) -> float:
    """What the whole training run cost."""
    return run["tokens"][-1] * run["flops_per_token"]


def equal_flops(runs: Sequence[Run], labels: Sequence[str], skip: int = 0) -> Drawing:
    """Which model learns more from the same FLOPs? Mean of the seeds, and the spread.

    Args:
        labels: the last one is the baseline, in grey.
        skip: measurements left out at the start, where both fall steeply.
    """
    figure, ax = new_figure(3.6)
    for label in labels:
        color = COLORS["baseline" if label == labels[-1] else "moe"]
        flops, mean = _draw_seeds(ax, runs_of(runs, label), skip, color)
        offset = (0, 9) if label == labels[-1] else (0, -12)
        word = {"ha": "right", "va": "center", "fontweight": "bold", "color": color}
        ax.annotate(
            label, (flops[-1], mean[-1]), offset, textcoords="offset points", **word
        )
    ax.axhline(mean[-1], color=FAINT, lw=1.5, zorder=0)
    ax.set(xlabel="training FLOPs", ylabel="validation, bits per byte", xlim=(0, None))
    ax.margins(y=0.1)
    return finish(figure)


def _draw_seeds(
    ax: Axes, runs: Sequence[Run], skip: int, color: str
) -> tuple[list[float], list[float]]:
    """Lowest to highest seed as a band, their mean as a line."""
    flops = [n * runs[0]["flops_per_token"] for n in runs[0]["tokens"]][skip:]
    columns = list(zip(*(run["val_loss"][skip:] for run in runs), strict=True))
    bits = [[loss / log(2) for loss in losses] for losses in columns]
    mean = [fmean(losses) for losses in bits]
    band = [min(losses) for losses in bits], [max(losses) for losses in bits]
    ax.fill_between(flops, *band, color=color, alpha=0.25, lw=0)
    ax.plot(flops, mean, color=color, lw=2)
    return flops, mean


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
    for count, value in zip(counts, bits, strict=True):
        ax.annotate(
            f"{value:.3f}",
            (count, value),
            (0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=9.5,
        )
    ax.set(xlabel="experts, of which each token reads as many as before")
    ax.set(ylabel="validation, bits per byte")
    ax.margins(x=0.08, y=0.2)
    return finish(figure)


def readers(
    shares: Sequence[Sequence[Mapping[str, float]]],
    corpus: Mapping[str, float],
    limit: float = 4.0,
) -> Drawing:
    """What does each expert read? More (blue) or less (grey) of a kind than its share.

    Args:
        shares: [layers][experts], of an expert's tokens, by kind of text.
        corpus: the same for all tokens.
        limit: this many times the corpus share, or more, is the darkest blue.
    """
    figure, axes = new_figure(0.19 * len(shares[0]) + 1.7, columns=len(shares))
    axes = [axes] if len(shares) == 1 else list(axes)
    for layer, (ax, experts) in enumerate(zip(axes, shares, strict=True)):
        image = [
            [_times(expert[kind], corpus[kind], limit) for kind in corpus]
            for expert in experts
        ]
        top = log2(limit)
        ax.pcolormesh(image, cmap=LESS_OR_MORE, vmin=-top, vmax=top, ec="white", lw=0.5)
        middle = [k + 0.5 for k in range(len(corpus))]
        ax.set_xticks(middle, list(corpus), rotation=90, fontsize=9)
        ax.set_title(f"MoE layer {layer + 1}", fontsize=10.5)
        ax.set_yticks([e + 0.5 for e in range(0, len(experts), 5)])
        ax.set_yticklabels(str(e) for e in range(0, len(experts), 5))
        ax.tick_params(length=0)
        ax.invert_yaxis()
    axes[0].set_ylabel("expert")
    return finish(figure)


def _times(share: float, of_corpus: float, limit: float) -> float:
    """How many times its share an expert reads, as a binary logarithm, within limits."""
    ratio = share / of_corpus if of_corpus else 1.0
    return log2(min(max(ratio, 1 / limit), limit))
