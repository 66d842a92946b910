"""A program: tapes sorted out once, played on any machine, as if made for each."""

import gc
from dataclasses import replace

import pytest
from test_simulation import random_tapes
from toy_machine import TOY

from tiny_lm.replay.program import Program
from tiny_lm.replay.simulation import play, play_ps, replay
from tiny_lm.replay.tape import Collective, Kernel, Mark, Tape, Wait

ONE, OTHER = Kernel("one", 4, 0), Kernel("other", 8, 0)


@pytest.mark.parametrize("hops", ["pipelined", "series"])
@pytest.mark.parametrize("all_reduce", ["ring", "tree"])
def test_one_program_gives_on_each_machine_what_its_tapes_give(hops, all_reduce):
    tapes, how = random_tapes(3), {"hops": hops, "all_reduce": all_reduce}
    program, found = Program(tapes), []
    for machine in (TOY, replace(TOY, gpus_per_node=3), TOY):
        timeline = play(program, machine, **how)
        assert timeline == replay(tapes, machine, **how)
        assert play_ps(program, machine, **how) == timeline.step_ps
        found.append(timeline)
    assert found[0] == found[2] != found[1]


def test_kernels_between_events_are_one_run_and_equal_runs_are_one():
    parts = (ONE, OTHER, Mark(0), ONE, OTHER, Wait(0, "comm"), OTHER, Mark(1))
    program = Program([Tape(0, parts)])
    assert program.runs == [(ONE, OTHER), (ONE, OTHER, OTHER)]
    assert len(program.streams[0, "compute"]) == 4
    twice = Program([Tape(rank, (ONE, OTHER)) for rank in (1, 0)])
    assert twice.runs == [(ONE, OTHER)] and list(twice.streams) == [
        (0, "compute"),
        (1, "compute"),
    ]


def test_each_kernel_of_a_run_is_drawn_but_one_that_takes_no_time():
    free = replace(TOY, launch_s=0.0)
    nothing = Kernel("nothing", 0, 0)
    spans = replay([Tape(0, (ONE, nothing, OTHER))], free).spans
    assert [span.name for span in spans] == ["one", "other"]
    assert spans[0].end_ps == spans[1].start_ps


def test_events_of_two_ranks_are_two_events():
    records = (ONE, Mark(5), Wait(5, "comm"), Kernel("late", 4, 0, stream="comm"))
    alone = replay([Tape(1, records)], TOY).step_ps
    slow = Tape(0, (*[OTHER] * 9, *records))
    late = [s.start_ps for s in replay([slow, Tape(1, records)], TOY).of(1)]
    assert max(late) < alone


def test_calls_that_differ_have_costs_of_their_own():
    """A cost is kept for a kind, a group, a root and sizes alone."""

    def call(kind, sizes, group=(0, 1), root=None):
        return {
            rank: Collective("call", kind, size, group, 0, root=root)
            for rank, size in zip(group, sizes, strict=True)
        }

    different = (
        call("all_gather", [(4,), (4,)]),
        call("all_gather", [(8,), (8,)]),  # other sizes
        call("reduce_scatter", [(8,), (8,)]),  # another kind
        call("reduce_scatter", [(8,), (8,)], group=(1, 2)),  # another group
        call("all_to_all", [(0, 8), (0, 0)]),
        call("all_to_all", [(0, 8), (9, 0)]),  # other rows of the second rank
        call("broadcast", [(8,), (8,)], root=0),
        call("broadcast", [(8,), (8,)], root=1),
        call("all_gather", [(4,), (4,)]),
    )
    alone = [
        replay([Tape(rank, (record,)) for rank, record in made.items()], TOY).step_ps
        for made in different
    ]
    tapes = {rank: [] for rank in range(3)}
    numbers = {}
    for made in different:
        group = made[max(made)].group
        for rank, record in made.items():
            tapes[rank].append(record._replace(sequence=numbers.get(group, 0)))
        numbers[group] = numbers.get(group, 0) + 1
    whole = Program([Tape(rank, tuple(records)) for rank, records in tapes.items()])
    shapes = {step[3] for steps in whole.streams.values() for step in steps}
    assert len(shapes) == 8 + 1  # two ranks, but of the exchange with two rows
    assert play_ps(whole, TOY) == sum(alone)


def test_the_collector_is_left_as_it_was():
    assert gc.isenabled()
    play_ps(Program(random_tapes(1)), TOY)
    assert gc.isenabled()
    with pytest.raises(ValueError, match="marks event 0 twice"):
        Program([Tape(0, (Mark(0), Mark(0)))])
    assert gc.isenabled()
    gc.disable()
    try:
        Program(random_tapes(1))
        assert not gc.isenabled()
    finally:
        gc.enable()
