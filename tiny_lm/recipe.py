"""How a model is trained, as numbers that refuse to contradict each other.

Chapter: 06_together/full_model
Source: deepseek_v3, section 4.2
"""

from dataclasses import dataclass

from tiny_lm.parts import require, require_numbers, require_positive


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Raises:
        ValueError: a number is out of its range, or two of them contradict each other.
    """

    steps: int = 300
    batch_size: int = 16  # sequences a step, over all ranks
    seq_len: int = 128
    lr: float = 3e-3
    final_lr: float | None = None  # None: a tenth of lr
    warmup_steps: int | None = None  # None: 20, or fewer where there are fewer steps
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    eval_every: int = 100
    eval_batches: int = 8

    def __post_init__(self) -> None:
        require_numbers(self)
        require_positive(self, "steps", "batch_size", "seq_len", "lr", "clip")
        require_positive(self, "eval_every", "eval_batches", "lowest_lr")
        require(
            self.lowest_lr <= self.lr,
            f"final_lr={self.lowest_lr} is above lr={self.lr}: the rate would rise",
        )
        require(
            0 <= self.warmup,
            f"warmup_steps must not be negative, got {self.warmup_steps}",
        )
        require(
            self.warmup <= self.steps,
            f"warmup_steps={self.warmup} are more than {self.steps} steps",
        )
        require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"betas are two numbers in [0, 1), got {self.betas}",
        )
        require(self.weight_decay >= 0, "weight_decay must not be negative")

    @property
    def lowest_lr(self) -> float:
        """The rate at the end: `final_lr`, or what follows from `lr`."""
        return self.lr / 10 if self.final_lr is None else self.final_lr

    @property
    def warmup(self) -> int:
        """Steps on the way up: `warmup_steps`, or what follows from `steps`."""
        if self.warmup_steps is None:
            return min(20, self.steps)
        return self.warmup_steps
