"""How ranks share the work of a step, beyond a batch and experts; what goes with what.

Chapter: 06_together/full_model

    overlap     two micro-batches alternate: one computes while the other's rows travel
    zero        each rank keeps a part of the optimizer's states: ZeRO-1
    pp          so many groups of ranks hold different layers: a pipeline of that length
    schedule    in which order the pipeline works
"""

from dataclasses import dataclass

from tiny_lm.config import ModelConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a run asks for; by default nothing of it."""

    overlap: bool = False
    zero: bool = False
    pp: int = 1
    schedule: str | None = None

    def check(self, config: ModelConfig, training: TrainConfig, ranks: int) -> None:
        """Refuse what does not go together, or not with this model or batch.

        Raises:
            ValueError: what was wanted, and what came; names the command's option.
        """
        for option, asked in (("--overlap", self.overlap), ("--zero", self.zero)):
            if asked and ranks == 1:
                raise ValueError(f"{option} is about several ranks, and there is one")
        if self.overlap:
            _check_overlap(config, training, ranks)
        self._check_pipeline(ranks)

    def _check_pipeline(self, ranks: int) -> None:
        if self.pp < 1:
            raise ValueError(f"--pp must be at least 1, got {self.pp}")
        if self.pp == 1 and self.schedule is not None:
            raise ValueError(
                f"--schedule {self.schedule} orders a pipeline: add --pp 2 or more"
            )
        if ranks % self.pp:
            raise ValueError(f"--pp {self.pp} does not divide {ranks} ranks evenly")
        if self.pp > 1 and (self.overlap or self.zero):
            other = "--overlap" if self.overlap else "--zero"
            raise ValueError(f"--pp and {other} do not go together: take one of them")


def _check_overlap(config: ModelConfig, training: TrainConfig, ranks: int) -> None:
    if not config.moe:
        raise ValueError(
            f"--overlap hides rows that travel to experts, and {config.name} has none"
        )
    if training.batch_size % (2 * ranks):
        raise ValueError(
            f"--overlap makes two micro-batches of each rank's sequences: "
            f"{training.batch_size} sequences do not divide by 2 x {ranks} ranks"
        )
