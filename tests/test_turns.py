"""Timing in turns."""

from tiny_lm.course.bench import turns


def test_workloads_take_turns_and_the_first_two_rounds_do_not_count():
    order = []
    workloads = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = turns.in_turns(workloads, rounds=3)
    assert "".join(order) == "ab" * 5
    assert seconds.keys() == workloads.keys()


def test_another_clock_may_be_asked():
    ticks = iter(range(100))
    seconds = turns.in_turns({"a": int, "b": int}, rounds=3, clock=lambda: next(ticks))
    assert seconds == {"a": 1, "b": 1}
