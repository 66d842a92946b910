"""How a model is trained: what follows from what, and what is refused."""

import math
from dataclasses import replace

import pytest

from tiny_lm.recipe import TrainConfig
from tiny_lm.train import learning_rate


def test_the_rate_never_rises_after_the_warm_up_whatever_was_set():
    for lr in (1e-6, 1e-4, 3e-3, 1.0):
        for t in (TrainConfig(lr=lr), replace(TrainConfig(), lr=lr)):
            rates = [learning_rate(step, t) for step in range(t.warmup, t.steps + 1)]
            assert rates == sorted(rates, reverse=True)
            assert rates[0] == pytest.approx(lr)
            assert rates[-1] == pytest.approx(lr / 10)


def test_the_warm_up_fits_into_the_steps_and_reaches_the_full_rate():
    for steps in (1, 2, 15, 21, 300):
        t = replace(TrainConfig(), steps=steps)
        assert t.warmup <= min(steps, 20)
        assert max(learning_rate(s, t) for s in range(steps)) == pytest.approx(t.lr)
    assert TrainConfig(warmup_steps=0).warmup == 0
    assert TrainConfig(final_lr=1e-4).lowest_lr == 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "TrainConfig.steps must be positive, got 0"),
        ({"lr": -0.1}, "TrainConfig.lr must be positive, got -0.1"),
        ({"lr": math.nan}, "TrainConfig.lr must be a finite number, got nan"),
        ({"lr": math.inf}, "TrainConfig.lr must be a finite number, got inf"),
        ({"lr": 1e-4, "final_lr": 3e-4}, "final_lr=0.0003 is above lr=0.0001"),
        ({"final_lr": 0.0}, "lowest_lr must be positive"),
        ({"eval_every": 0}, "TrainConfig.eval_every must be positive"),
        ({"eval_batches": 0}, "TrainConfig.eval_batches must be positive"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative"),
        ({"steps": 5, "warmup_steps": 6}, "warmup_steps=6 are more than 5 steps"),
        ({"betas": (0.9, 1.0)}, r"betas are two numbers in \[0, 1\), got"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative"),
    ],
)
def test_what_cannot_be_or_contradicts_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)
