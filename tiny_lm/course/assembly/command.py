"""`python -m tiny_lm train --pieces FOLDER`: the folder as a run's maker.

Chapter: 06_together/full_model
Source: course
"""

from pathlib import Path

from tiny_lm.course.assembly.kept import Assembly, gather
from tiny_lm.job import Job


def assemble(folder: Path, stand_in: bool, check: bool = True) -> Assembly:
    """The pieces of a folder.

    Args:
        stand_in: take tiny_lm's own where a piece is wrong.
        check: whether to check them; of torchrun's ranks only the first does.

    Raises:
        ValueError: there is no such folder, or a piece is wrong: a line for each.
    """
    mine = gather(folder, check=check)
    if mine.wrong and not stand_in:
        lines = [f"{name}: {why}" for name, why in mine.wrong.items()]
        lines.append(
            f"Nothing was started. Mend {folder}, or add --stand-in: tiny_lm's own "
            f"then stand in."
        )
        raise ValueError("\n".join(lines))
    return mine


def told(mine: Assembly, job: Job) -> str:
    """Whose pieces the run is made of; above it, those that others stand in for."""
    lines = [f"{n}: {why}; tiny_lm's own stands in" for n, why in mine.wrong.items()]
    return "\n".join([*lines, mine.told(job.config, job.ranks, layout=job.layout)])
