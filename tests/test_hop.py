"""One hop, by hand: copies that leave, sums that come home, values beside them."""

import sys

import pytest
import torch
from cloudpickle import register_pickle_by_value

from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import run_ranks
from tiny_lm.parallel.hop import (
    number_choices,
    pack_bits,
    plan_hop,
    starts_of,
    sum_bags,
    unpack_bits,
)

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest

YES = {  # what the items of each rank want of experts 0, 1 (rank 0) and 2, 3 (rank 1)
    0: [[1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 0, 0]],
    1: [[0, 1, 0, 0]],
}


def _hop(rank):
    wanted = torch.tensor(YES[rank], dtype=torch.bool)
    items = 10.0 * (rank + 1) + torch.arange(len(wanted)).unsqueeze(1)
    with comm.metering() as meter:
        hop, wants, arrived = plan_hop(wanted, [1, len(wanted) - 1], mesh.world())
        planned = dict(meter.calls)
    came = hop.out(items)
    home = hop.add_up(hop.back(100 * (rank + 1) + came))
    weights = torch.arange(int(wanted.sum()), dtype=torch.float32)
    values = hop.values_out(weights)
    assert torch.equal(hop.values_back(values), weights)
    return [
        came.flatten().tolist(),
        wants.int().tolist(),
        arrived.tolist(),
        home.flatten().tolist(),
        values.tolist(),
        planned,
    ]


def test_a_hop_by_hand():
    first, second = run_ranks(2, _hop)
    # Items 10, 11, 12 of rank 0 and 20 of rank 1; 10 wants both ranks, 11 rank 1 only.
    assert first[0] == [10, 12, 20] and second[0] == [10, 11]
    assert first[1] == [[1, 0], [1, 1], [0, 1]] and second[1] == [[1, 1], [0, 1]]
    # From each rank, and there from the first item and from all others.
    assert first[2] == [[1, 1], [1, 0]] and second[2] == [[1, 1], [0, 0]]
    assert first[3] == [110 + 210, 211, 112] and second[3] == [120]
    # Choices of rank 0, item by item: 0 1 2 | 3 | 4 5, of which 1, 2 and 3 leave.
    assert first[4] == [0, 4, 5, 0] and second[4] == [1, 2, 3]
    assert first[5] == second[5] == {"counts": 1, "all_to_all": 1}


def test_in_a_group_of_one_every_item_is_its_own_copy():
    wanted = torch.tensor([[1, 0, 1], [0, 1, 0]], dtype=torch.bool)
    hop, wants, arrived = plan_hop(wanted, [2], mesh.solo())
    items = torch.tensor([[1.0], [2.0]])
    assert torch.equal(hop.out(items), items) and torch.equal(wants, wanted)
    assert torch.equal(hop.add_up(hop.back(items)), items)
    assert arrived.tolist() == [[2]]


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 32])
def test_bits_come_back_as_they_went(columns):
    generator = torch.Generator().manual_seed(columns)
    table = torch.rand(5, columns, generator=generator) < 0.3
    packed = pack_bits(table)
    assert packed.dtype == torch.uint8 and packed.shape == (5, -(-columns // 8))
    assert torch.equal(unpack_bits(packed, columns), table)
    assert unpack_bits(packed[:0], columns).shape == (0, columns)


def test_choices_are_numbered_row_by_row():
    table = torch.tensor([[0, 1, 1], [1, 0, 0]], dtype=torch.bool)
    assert number_choices(table)[table].tolist() == [0, 1, 2]


def test_bags_are_summed_with_and_without_weights():
    rows = torch.tensor([[1.0], [2.0], [4.0]])
    members, starts = torch.tensor([2, 0, 1]), starts_of(torch.tensor([2, 1]))
    assert starts.tolist() == [0, 2]
    assert sum_bags(rows, members, starts).tolist() == [[5], [2]]
    weights = torch.tensor([1.0, 10.0, 100.0])
    assert sum_bags(rows, members, starts, weights).tolist() == [[14], [200]]
    assert sum_bags(rows, members[:0], starts[:0]).shape == (0, 1)
