"""Task 5.7 goes on: memory, waiting, other numbers, and right answers in other styles.

Chapter: 05_comm/pipelines
Source: zero_bubble; deepseek_v3, section 3.2.1
"""

from itertools import count

from tiny_lm.course.checks.comm.one_f_one_b import (
    AHEAD,
    everything,
    length,
    memory,
    task_5_7,
    watched,
    watched_anywhere,
)

GPIPE = (
    "All forwards come first, and then all backwards: this is GPipe. A stage holds "
    "every micro-batch at once. In 1F1B it goes on with a backward as soon as one can "
    "be there."
)
ONE_MORE = (
    "Every stage runs one micro-batch further ahead than it needs. Behind it there are "
    "num_stages - stage - 1 stages; the forward after so many is the first of a pair."
)

task_5_7.asks(
    "a stage holds no more micro-batches than stages are left, itself included",
    watched(memory, (4, 6)),
    otherwise="A micro-batch is held from its F to its B. How many may a stage have "
    "begun before its first B?",
    mistakes={
        f"{AHEAD} num_micro": GPIPE,
        f"{AHEAD} min(num_stages - stage, num_micro)": ONE_MORE,
        f"{AHEAD} min(num_stages - 1, num_micro)": "Every stage runs as far ahead as "
        "the first. The last one needs nobody behind it and can turn round at once: "
        "the number hangs on `stage`.",
        f"{AHEAD} min(2 * (num_stages - stage - 1), num_micro)": "A stage runs two "
        "forwards ahead for each stage behind it. One is enough: until the first "
        "backward is here, each of those needs one.",
        f"{AHEAD} min(num_stages, num_micro)": "Every stage runs ahead by the number "
        "of stages, the last one too, which could turn round at once.",
    },
)


@task_5_7.properties[-1].mistake(
    "Forwards come in groups of as many as there are stages, and then their backwards: "
    "GPipe several times over. The pipeline fills and drains once for each group."
)
def groups(num_stages, stage, num_micro):
    actions = []
    for first in range(0, num_micro, num_stages):
        group = range(first, min(first + num_stages, num_micro))
        actions += [(kind, micro) for kind in "FB" for micro in group]
    return actions


SHORT = (
    "A stage runs too few forwards ahead, and then waits for a backward that cannot be "
    "there yet. Count the stages behind it."
)

task_5_7.asks(
    "nobody waits longer than a pipeline must: F takes 1 unit, B takes 2",
    watched(length, (4, 6)),
    otherwise="Either a stage runs too little ahead and has nothing to do while its "
    "first backward is on its way, or backwards are not done in the order of forwards.",
    mistakes={
        f"{AHEAD} max(0, num_stages - stage - 2)": SHORT,
        f"{AHEAD} 0": "No stage runs ahead: F0 B0 F1 B1 everywhere. The first stage "
        "waits for B0 before it begins F1, so that one micro-batch at a time is under "
        "way.",
        f"{AHEAD} min((num_stages - stage - 1) // 2, num_micro)": SHORT,
        f"{AHEAD} min(1, num_stages - stage - 1)": "Every stage but the last runs one "
        "forward ahead. The number grows with the stages that are behind it.",
    },
)

FEW = (
    "With fewer micro-batches than stages behind it, a stage runs ahead with "
    "micro-batches that do not exist."
)

task_5_7.asks(
    "other numbers: few micro-batches, one stage, many of both",
    watched(everything, (4, 2), (3, 1), (1, 3), (2, 5), (7, 16)),
    watched_anywhere(everything),
    otherwise="With fewer micro-batches than stages behind it, a stage runs ahead with "
    "those that there are. No size may be refused, or taken from the example.",
    mistakes={
        f"{AHEAD} num_stages - stage - 1": FEW,
        f"{AHEAD} min(4 - stage - 1, num_micro)": "There are always four stages here. "
        "How many there are comes as `num_stages`.",
    },
)


@task_5_7.accepts
def three_phases(p, rank, m):
    warm_up = min(p - rank, m)
    first = [["F", n] for n in range(warm_up)]
    pairs = [[["B", n], ["F", n + warm_up]] for n in range(m - warm_up)]
    last = [["B", n] for n in range(m - warm_up, m)]
    return first + [action for pair in pairs for action in pair] + last


@task_5_7.accepts
def two_counters(num_stages, stage, num_micro):
    forward, backward = count(), count()
    done = begun = 0
    actions = []
    while done < num_micro:
        if begun < num_micro and begun - done < num_stages - stage:
            actions.append(("F", next(forward)))
            begun += 1
        else:
            actions.append(("B", next(backward)))
            done += 1
    return tuple(actions)
