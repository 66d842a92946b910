"""What of the exchanges is hidden: by hand, and a bound that no order beats."""

from itertools import permutations

import pytest

from tiny_lm.hardware import Machine
from tiny_lm.replay.hidden import hiding, is_exchange, slower_links, sweep
from tiny_lm.replay.tape import COMM, COMPUTE, Collective, Kernel, Mark, Tape, Wait

MS = 10**9  # FLOPs, and bytes, that take a millisecond
MACHINE = Machine(
    name="unit",
    source="course",
    gpus_per_node=2,
    bf16_flops_per_s=1e12,
    memory_bytes_per_s=1e12,
    nvlink_bytes_per_s=1e12,
    network_bytes_per_s=1e12,
    nvlink_alpha_s=0.0,
    network_alpha_s=0.0,
    launch_s=0.0,
)


def _tape(rank: int, order: str) -> Tape:
    """A step written as letters: first, last; a, b compute; > starts, < waits for one.

    `f > a < l` computes f, starts an exchange, computes a beside it, waits, computes l.
    """
    records, started, waited = [], 0, 0
    for letter in order.replace(" ", ""):
        if letter == ">":
            sizes = (0, 2 * MS) if rank == 0 else (2 * MS, 0)
            call = Collective("ffn all_to_all", "all_to_all", sizes, (0, 1), started)
            start, end = 2 * started, 2 * started + 1
            records += [Mark(start, COMPUTE), Wait(start, COMM), call, Mark(end, COMM)]
            started += 1
        elif letter == "<":
            records.append(Wait(2 * waited + 1, COMPUTE))
            waited += 1
        else:
            records.append(Kernel(letter, MS, 0))
    return Tape(rank, tuple(records))


def _step(order: str) -> list[Tape]:
    return [_tape(rank, order) for rank in (0, 1)]


def test_by_hand():
    nothing = hiding(_step("f > < a a l"), MACHINE)
    assert nothing[:2] == (2.0, 2.0) and nothing.share == 0
    assert nothing.step_ms == 6.0
    half = hiding(_step("f > a < a l"), MACHINE)
    assert half[:2] == (2.0, 1.0) and half.share == 0.5
    whole = hiding(_step("f > a a < l"), MACHINE)
    assert (whole.exposed_ms, whole.bound_ms, whole.step_ms) == (0.0, 0.0, 4.0)


def test_what_neither_end_can_hide_is_in_the_bound():
    assert hiding(_step("f > < l"), MACHINE).bound_ms == 2.0
    assert hiding(_step("f > a < l"), MACHINE).bound_ms == 1.0
    assert hiding(_step("f > a a < l"), MACHINE).bound_ms == 0.0
    assert hiding(_step("f > < > a < l"), MACHINE).bound_ms == 3.0


def test_no_order_of_the_same_work_beats_the_bound():
    for middle in set(permutations("a>a<b><")):
        text = "".join(middle)
        opened = [text[:n].count(">") - text[:n].count("<") for n in range(1, 8)]
        if min(opened) < 0:
            continue
        found = hiding(_step(f"f > < {text} l"), MACHINE)
        assert found.exposed_ms >= found.bound_ms >= 3.0


def test_slower_links_take_so_many_times_as_long():
    found = sweep(_step("f > a a < l"), MACHINE, [0.5, 1, 2])
    assert [row.exchange_ms for row in found.values()] == [1.0, 2.0, 4.0]
    assert [row.exposed_ms for row in found.values()] == [0.0, 0.0, 2.0]
    assert [row.bound_ms for row in found.values()] == [0.0, 0.0, 2.0]
    with pytest.raises(ValueError, match="links cannot be 0 times as slow"):
        slower_links(MACHINE, 0)


def test_only_exchanges_between_experts_count():
    assert is_exchange("blocks.1.ffn all_to_all backward")
    assert is_exchange("blocks.1.ffn counts")
    assert not is_exchange("all_reduce")
