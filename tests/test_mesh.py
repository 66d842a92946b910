"""Groups of ranks, and meshes whose axes are groups."""

import sys

import pytest
import torch
from cloudpickle import register_pickle_by_value

from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import run_ranks
from tiny_lm.gpus.mesh import Group, Mesh

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest


def _members(group: Group) -> tuple[int, list[int]]:
    """My place in the group, and the world ranks it is made of."""
    me = torch.tensor([mesh.world().rank])
    return group.rank, comm.all_gather(me, group).tolist()


def test_without_ranks_the_world_is_a_group_of_one():
    assert mesh.world() == mesh.solo() == Group(rank=0, size=1)
    assert Mesh({"dp": 1, "ep": 1})["ep"] == mesh.solo()


def test_a_mesh_of_two_by_two_has_rows_and_columns():
    def work(rank):
        grid = Mesh({"dp": 2, "ep": 2})
        return _members(grid["dp"]), _members(grid["ep"]), grid.axes

    results = run_ranks(4, work)
    assert [dp for dp, _, _ in results] == [
        (0, [0, 2]),
        (0, [1, 3]),
        (1, [0, 2]),
        (1, [1, 3]),
    ]
    assert [ep for _, ep, _ in results] == [
        (0, [0, 1]),
        (1, [0, 1]),
        (0, [2, 3]),
        (1, [2, 3]),
    ]
    assert all(axes == {"dp": 2, "ep": 2} for _, _, axes in results)


def test_three_axes_and_axes_of_one_or_all_ranks():
    def work(rank):
        three = Mesh({"pp": 2, "dp": 1, "ep": 2})
        flat = Mesh({"dp": 1, "ep": 4})
        whole = flat["ep"] == mesh.world(), flat["dp"] == mesh.solo()
        return [_members(three[axis])[1] for axis in three.axes], whole

    results = run_ranks(4, work)
    assert [members for members, _ in results] == [
        [[0, 2], [0], [0, 1]],
        [[1, 3], [1], [0, 1]],
        [[0, 2], [2], [2, 3]],
        [[1, 3], [3], [2, 3]],
    ]
    assert all(whole == (True, True) for _, whole in results)


@pytest.mark.parametrize("axes", [{"dp": 2, "ep": 2}, {"dp": 0}, {"a": -1, "b": -1}])
def test_a_mesh_must_cover_all_ranks(axes):
    with pytest.raises(ValueError, match="does not cover 1 ranks"):
        Mesh(axes)


def test_an_unknown_axis_is_refused_with_those_that_exist():
    with pytest.raises(
        ValueError, match="no axis 'tp' in this mesh; there are: dp, ep"
    ):
        Mesh({"dp": 1, "ep": 1})["tp"]


def test_a_group_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="rank=2 is not one of size=2 ranks"):
        Group(rank=2, size=2)
    with pytest.raises(ValueError, match="a group of size=2 needs a process group"):
        Group(rank=0, size=2)
