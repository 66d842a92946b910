"""`python -m tiny_lm train --pieces FOLDER`: the folder as a run's maker.

Chapter: 06_together/full_model
Source: course
"""

from pathlib import Path

from tiny_lm import runs
from tiny_lm.course.assembly import writing
from tiny_lm.course.assembly.kept import Assembly, gather


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


def written(mine: Assembly, run: Path, prompt: str, num_bytes: int) -> str:
    """What the model of a run writes after a prompt, by the pieces themselves."""
    trained = runs.load_model(run)
    model = mine.model(trained.config)
    model.load_state_dict(trained.state_dict())
    drawn = writing.write(mine, model, prompt, num_bytes)
    likeliest = writing.likeliest(mine, model, prompt, num_bytes)
    return f"{prompt}{drawn}\n\nand the likeliest:\n\n{prompt}{likeliest}"
