"""How ranks share the work of a step, beyond a batch and experts; what goes with what.

Chapter: 06_together/full_model

    overlap     two micro-batches alternate: one computes while the other's rows travel
    zero        each rank keeps a part of the optimizer's states: ZeRO-1
    pp          so many groups of ranks hold different layers: a pipeline of that length
    schedule    in which order the pipeline works
"""

from dataclasses import dataclass

from tiny_lm.config import ModelConfig, TrainConfig

# How many stages a rank of a pipeline holds, by schedule; two of them lie like a V.
STAGES_A_RANK = {"1f1b": 1, "zbv": 2, "dualpipev": 2}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a run asks for; by default nothing of it."""

    overlap: bool = False
    zero: bool = False
    pp: int = 1
    schedule: str | None = None

    @property
    def order(self) -> str:
        """The pipeline's schedule, 1F1B where none was asked for."""
        return self.schedule or "1f1b"

    @property
    def num_micro(self) -> int:
        """Micro-batches of each rank's sequences: enough for any of the schedules."""
        return 2 * self.pp

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
            self._check_mtp(config)
        self._check_pipeline(ranks)
        if self.pp > 1:
            self._check_stages(config)
            self._check_micro(training, ranks // self.pp)

    def _check_mtp(self, config: ModelConfig) -> None:
        if self.zero and config.num_mtp:
            raise ValueError(
                "--overlap and --zero together take no --mtp: embedding and head then "
                "get gradients more often in a step than other weights"
            )

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

    def _check_stages(self, config: ModelConfig) -> None:
        if self.order not in STAGES_A_RANK:
            raise ValueError(
                f"--schedule must be one of {', '.join(STAGES_A_RANK)}, "
                f"got {self.order!r}"
            )
        num_stages = self.pp * STAGES_A_RANK[self.order]
        if config.num_layers % num_stages:
            raise ValueError(
                f"--pp {self.pp} by {self.order} wants {num_stages} equal stages, and "
                f"{config.name} has {config.num_layers} layers"
            )
        if config.num_mtp:
            raise ValueError(
                "--pp and --mtp do not go together: a further token needs the first "
                "stage's embedding and the last one's head"
            )

    def _check_micro(self, training: TrainConfig, sharing: int) -> None:
        if training.batch_size % (sharing * self.num_micro):
            raise ValueError(
                f"--pp {self.pp} makes {self.num_micro} micro-batches of each rank's "
                f"sequences: {training.batch_size} sequences do not divide by "
                f"{self.num_micro} x {sharing} ranks"
            )


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
