"""Task 5.6 goes on: orders that hide too little, and right ones in other styles.

Chapter: 05_comm/hiding
Source: course
"""

from collections import deque

from tiny_lm.course.checks.comm.overlapped import task_5_6, timed_run
from tiny_lm.course.labs.two_batches import in_turn

AT_ONCE = (
    "A trip is waited for right where it starts: dispatch() and combine() are a start "
    "and its wait in one, as if the transfer ran on the compute stream. Nothing is "
    "computed in between."
)
EDGE = (
    "At the edge of each layer both trips home are waited for. The next layer's attend "
    "of a does not need b's: carry what is under way into the next round."
)
LATE = (
    "Rows that are ready are held back: both micro-batches are computed before either "
    "is sent, and then both are under way at once. Send each as soon as it is ready."
)
EARLY = (
    "A wait stands before a part of the other micro-batch that does not need what is "
    "waited for. Move the wait behind that part."
)


@timed_run.mistake(
    "Every trip is waited for right where it starts, and nothing is hidden at all. "
    "This is the plain order, in which the other micro-batch is not used for anything."
)
def plain_order(layers, a, b):
    return in_turn(layers, a, b)


@timed_run.mistake(
    "a goes through all layers before b begins: while a travels there is nothing else "
    "to compute. The two have to take turns."
)
def one_after_the_other(layers, a, b):
    found = []
    for x in (a, b):
        for layer in layers:
            x = layer.combine(layer.experts(layer.dispatch(layer.attend(x))))
        found.append(x)
    return found


@timed_run.mistake(AT_ONCE)
def dispatch_at_once(layers, a, b):
    back = None
    for layer in layers:
        a = layer.dispatch(layer.attend(a))
        b = b if back is None else back.wait()
        b = layer.dispatch(layer.attend(b))
        back_a = layer.start_combine(layer.experts(a))
        back = layer.start_combine(layer.experts(b))
        a = back_a.wait()
    return a, back.wait()


@timed_run.mistake(AT_ONCE)
def combine_at_once(layers, a, b):
    for layer in layers:
        there_a = layer.start_dispatch(layer.attend(a))
        there_b = layer.start_dispatch(layer.attend(b))
        a = layer.combine(layer.experts(there_a.wait()))
        b = layer.combine(layer.experts(there_b.wait()))
    return a, b


@timed_run.mistake(EDGE)
def waits_at_the_edge(layers, a, b):
    for layer in layers:
        there_a = layer.start_dispatch(layer.attend(a))
        there_b = layer.start_dispatch(layer.attend(b))
        back_a = layer.start_combine(layer.experts(there_a.wait()))
        back_b = layer.start_combine(layer.experts(there_b.wait()))
        a, b = back_a.wait(), back_b.wait()
    return a, b


@timed_run.mistake(LATE)
def both_attend_first(layers, a, b):
    back = None
    for layer in layers:
        a = layer.attend(a)
        b = layer.attend(b if back is None else back.wait())
        there_a, there_b = layer.start_dispatch(a), layer.start_dispatch(b)
        back_a = layer.start_combine(layer.experts(there_a.wait()))
        back = layer.start_combine(layer.experts(there_b.wait()))
        a = back_a.wait()
    return a, back.wait()


@timed_run.mistake(LATE)
def both_experts_first(layers, a, b):
    back = None
    for layer in layers:
        there_a = layer.start_dispatch(layer.attend(a))
        there_b = layer.start_dispatch(layer.attend(b if back is None else back.wait()))
        a, b = layer.experts(there_a.wait()), layer.experts(there_b.wait())
        back_a, back = layer.start_combine(a), layer.start_combine(b)
        a = back_a.wait()
    return a, back.wait()


@timed_run.mistake(EARLY)
def waits_before_the_experts_of_b(layers, a, b):
    back = None
    for layer in layers:
        there_a = layer.start_dispatch(layer.attend(a))
        there_b = layer.start_dispatch(layer.attend(b if back is None else back.wait()))
        a = layer.start_combine(layer.experts(there_a.wait())).wait()
        back = layer.start_combine(layer.experts(there_b.wait()))
    return a, back.wait()


@timed_run.mistake(EARLY)
def waits_before_the_attend_of_b(layers, a, b):
    back = None
    for layer in layers:
        a = layer.start_dispatch(layer.attend(a)).wait()
        there_b = layer.start_dispatch(layer.attend(b if back is None else back.wait()))
        back_a = layer.start_combine(layer.experts(a))
        back = layer.start_combine(layer.experts(there_b.wait()))
        a = back_a.wait()
    return a, back.wait()


@timed_run.mistake(
    "b's rows, which left last, are waited for first. While they travel, the experts "
    "of a could run: a's rows are here by then."
)
def last_sent_first(layers, a, b):
    back = None
    for layer in layers:
        there_a = layer.start_dispatch(layer.attend(a))
        there_b = layer.start_dispatch(layer.attend(b if back is None else back.wait()))
        b, a = there_b.wait(), there_a.wait()
        back_a = layer.start_combine(layer.experts(a))
        back = layer.start_combine(layer.experts(b))
        a = back_a.wait()
    return a, back.wait()


@task_5_6.accepts
def b_goes_first(layers, a, b):
    home = None
    for layer in layers:
        there_b = layer.start_dispatch(layer.attend(b))
        if home:
            a = home.wait()
        there_a = layer.start_dispatch(layer.attend(a))
        home_b = layer.start_combine(layer.experts(there_b.wait()))
        home = layer.start_combine(layer.experts(there_a.wait()))
        b = home_b.wait()
    return [home.wait(), b]


@task_5_6.accepts
def by_a_queue(layers, a, b):
    """Always the next part of whoever was sent first."""
    waiting = deque([(a, 0), (b, 0)])
    done = {}
    while waiting:
        x, step = waiting.popleft()
        x = x.wait() if step else x
        layer_number, half = divmod(step, 2)
        if layer_number == len(layers):
            done[x.name] = x
            continue
        layer = layers[layer_number]
        sent = (
            layer.start_combine(layer.experts(x))
            if half
            else layer.start_dispatch(layer.attend(x))
        )
        waiting.append((sent, step + 1))
    return done["a"], done["b"]


@task_5_6.accepts
def first_layer_apart(layers, a, b):
    first, *others = layers
    there = first.start_dispatch(first.attend(a)), first.start_dispatch(first.attend(b))
    back = [first.start_combine(first.experts(x.wait())) for x in there]
    for layer in others:
        there = [layer.start_dispatch(layer.attend(x.wait())) for x in back]
        back = [layer.start_combine(layer.experts(x.wait())) for x in there]
    return tuple(x.wait() for x in back)
