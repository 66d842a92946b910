"""Layouts: what goes with what is refused in one line that names the option."""

from dataclasses import replace

import pytest

from tiny_lm.config import TrainConfig, tiny, tiny_dense
from tiny_lm.layout import STAGES_A_RANK, Layout
from tiny_lm.parallel.pipeline import KINDS

TRAINING = TrainConfig(batch_size=16)


@pytest.mark.parametrize(
    ("asked", "config", "ranks", "message"),
    [
        ({"overlap": True}, tiny(), 1, "--overlap is about several ranks"),
        ({"zero": True}, tiny(), 1, "--zero is about several ranks"),
        ({"overlap": True}, tiny_dense(), 4, "tiny_dense has none"),
        ({"overlap": True}, tiny(), 16, "do not divide by 2 x 16 ranks"),
        (
            {"overlap": True, "zero": True},
            replace(tiny(), num_mtp=1),
            4,
            "--overlap and --zero together take no --mtp",
        ),
        ({"pp": 0}, tiny(), 4, "--pp must be at least 1, got 0"),
        ({"pp": 3}, tiny(), 4, "--pp 3 does not divide 4 ranks"),
        ({"schedule": "1f1b"}, tiny(), 4, "--schedule 1f1b orders a pipeline"),
        ({"pp": 2, "zero": True}, tiny(), 4, "--pp and --zero do not go together"),
        ({"pp": 2, "overlap": True}, tiny(), 4, "--pp and --overlap"),
        ({"pp": 2, "schedule": "zb1p"}, tiny(), 4, "one of 1f1b, zbv, dualpipev, got"),
        ({"pp": 4, "schedule": "zbv"}, tiny(), 4, "8 equal stages, and tiny has 4"),
        ({"pp": 2}, replace(tiny(), num_mtp=1), 4, "--pp and --mtp do not go togeth"),
        ({"pp": 2}, tiny(), 16, "16 sequences do not divide by 4 x 8 ranks"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(asked, config, ranks, message):
    with pytest.raises(ValueError, match=message) as caught:
        Layout(**asked).check(config, TRAINING, ranks)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "ranks"),
    [
        ({}, 1),
        ({"overlap": True, "zero": True}, 4),
        ({"zero": True}, 2),
        ({"pp": 2}, 4),
        ({"pp": 4}, 4),
        ({"pp": 2, "schedule": "zbv"}, 4),
        ({"pp": 2, "schedule": "dualpipev"}, 2),
    ],
)
def test_what_goes_together_passes(asked, ranks):
    Layout(**asked).check(tiny(), TRAINING, ranks)


def test_a_layout_asks_for_what_pipelines_can_run():
    assert {n: k.stages_per_rank for n, k in KINDS.items()} == STAGES_A_RANK
    for pp in (2, 4, 8):
        layout = Layout(pp=pp)
        assert layout.order == "1f1b"
        assert all(layout.num_micro >= k.least_micro(pp) for k in KINDS.values())
