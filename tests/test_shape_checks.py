"""Shapes are checked in the tests, ranks included, and nowhere else."""

import os
import subprocess
import sys

import pytest
import torch

from tiny_lm.gpus.launch import run_ranks
from tiny_lm.layers import rotate

WRONG = "import torch; from tiny_lm.layers import rotate; x = torch.zeros"
WRONG += "(2, 3, 4); rotate(x, x[0], x[0, :, :1])"  # cos and sin differ in width


def rotate_badly(rank: int) -> None:
    x = torch.zeros(2, 3, 4)
    rotate(x, x[0], x[0, :, :1])


def test_a_wrong_shape_is_refused_here():
    with pytest.raises(Exception, match="Type-check error whilst checking"):
        rotate_badly(0)


def test_a_wrong_shape_is_refused_inside_a_rank():
    with pytest.raises(RuntimeError, match="Type-check error whilst checking"):
        run_ranks(1, rotate_badly)


@pytest.mark.parametrize("tested", [True, False])
def test_a_started_process_checks_shapes_only_for_the_tests(tested):
    hidden = {} if tested else {"PYTHONPATH": ""}
    ran = subprocess.run(
        [sys.executable, "-c", WRONG],
        env=os.environ | hidden,
        capture_output=True,
        text=True,
    )
    assert ("Type-check error" in ran.stderr) == tested, ran.stderr
