"""Layouts: what goes with what is refused in one line that names the option."""

import pytest

from tiny_lm.config import TrainConfig, tiny, tiny_dense
from tiny_lm.layout import Layout

TRAINING = TrainConfig(batch_size=16)


@pytest.mark.parametrize(
    ("asked", "config", "ranks", "message"),
    [
        ({"overlap": True}, tiny(), 1, "--overlap is about several ranks"),
        ({"zero": True}, tiny(), 1, "--zero is about several ranks"),
        ({"overlap": True}, tiny_dense(), 4, "tiny_dense has none"),
        ({"overlap": True}, tiny(), 16, "do not divide by 2 x 16 ranks"),
        ({"pp": 0}, tiny(), 4, "--pp must be at least 1, got 0"),
        ({"pp": 3}, tiny(), 4, "--pp 3 does not divide 4 ranks"),
        ({"schedule": "1f1b"}, tiny(), 4, "--schedule 1f1b orders a pipeline"),
        ({"pp": 2, "zero": True}, tiny(), 4, "--pp and --zero do not go together"),
        ({"pp": 2, "overlap": True}, tiny(), 4, "--pp and --overlap"),
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
    ],
)
def test_what_goes_together_passes(asked, ranks):
    Layout(**asked).check(tiny(), TRAINING, ranks)
