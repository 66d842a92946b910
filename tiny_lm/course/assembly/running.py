"""Train an assembly on ranks that are warm already.

Chapter: 06_together/full_model
Source: course
"""

from typing import Any

from tiny_lm import train
from tiny_lm.gpus import mesh
from tiny_lm.gpus.launch import Cluster
from tiny_lm.job import Job


def on(gpus: Cluster, job: Job) -> dict[str, Any]:
    """Do the job on the ranks of a cluster: the summary, as `train.run` gives it.

    Raises:
        ValueError: the job cannot run, or wants another number of ranks.
        RuntimeError: a rank failed.
    """
    if job.ranks != gpus.world_size:
        raise ValueError(f"the job wants {job.ranks} ranks, got {gpus.world_size}")
    job.check()
    return gpus.run(_one, job.open_folder(), timeout_s=86_400.0)[0]


def _one(rank: int, job: Job) -> dict[str, Any] | None:
    return train.train(job, mesh.world(), job.device)
