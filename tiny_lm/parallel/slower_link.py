"""What the H800's slower NVLink cost DeepSeek-V3's step, and what won it back.

Chapter: 05_comm/slower_link
Source: deepseek_v3, section 3.2; deepseek_isca, sections 4.2 and 4.3

The same step on the links of an H800 and of an H100: arithmetic, memory and network
are equal, NVLink is not. The answer hangs on how a row passes its two hops, over the
network and then over NVLink, so each is computed for both ends:

    pipelined   the slower NVLink works while the network, slower still and equal on
                both, is waited for anyway. It costs next to nothing, with or without
                the techniques, which then win time back from the network alone
    series      each exchange pays for NVLink, too. What is hidden beside kernels costs
                nothing either way, so that now overlap wins most of it back

V3's own kernels are built for the first, and take processors for it: `processors_s`.
"""

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

from tiny_lm.parallel.v3_step import LINKS, PS_PER_S, deepseek_v3_step, machine
from tiny_lm.replay.links import HOPS
from tiny_lm.replay.program import Program
from tiny_lm.replay.simulation import play_ps

# Of an H800, and those of them that move bytes; deepseek_v3, section 3.2.2
PROCESSORS, MOVING = 132, 20
TECHNIQUES = ("overlap", "fp8_wire", "node_limit")
WITHOUT = dict.fromkeys(TECHNIQUES, False)


class Answer(NamedTuple):
    """One choice of techniques, on both links, for both ends of the hops.

    Args:
        tensor_parallel: GPUs that share one attention; V3 has 1.
        steps_s: seconds of the step by (hops, links).
    """

    tensor_parallel: int
    overlap: bool
    fp8_wire: bool
    node_limit: bool
    steps_s: Mapping[tuple[str, str], float]

    def lost_s(self, hops: str) -> float:
        """What the slower NVLink costs this step."""
        return self.steps_s[hops, "h800"] - self.steps_s[hops, "h100"]


def answer(reached: float, **choice) -> Answer:
    """Replay one choice on both links, for both ends of the hops.

    Args:
        reached: what `v3_step.fit` found.
        choice: arguments of `deepseek_v3_step`.
    """
    program = Program(deepseek_v3_step(**choice), mirror=True)
    steps = {
        (hops, links): _step_s(program, links, reached, hops)
        for hops in HOPS
        for links in LINKS
    }
    techniques = (choice.get(name, True) for name in TECHNIQUES)
    return Answer(choice.get("tensor_parallel", 1), *techniques, steps)


def all_answers(reached: float, **layout) -> list[Answer]:
    """The step with and without each technique and tensor parallelism; V3's own first.

    Args:
        reached: what `v3_step.fit` found.
        layout: fields of `plan.Layout`, as `batch_size`, for a shorter step.
    """
    yes_no = (True, False)
    return [
        answer(
            reached,
            tensor_parallel=tensor,
            **dict(zip(TECHNIQUES, chosen, strict=True)),
            **layout,
        )
        for tensor in (1, 8)
        for chosen in product(yes_no, repeat=len(TECHNIQUES))
    ]


def won_back_s(answers: list[Answer], hops: str = "pipelined") -> Mapping[str, float]:
    """Seconds that V3's step gets longer on H800 links without each technique."""
    choices = {answer[:4]: answer.steps_s[hops, "h800"] for answer in answers}
    whole = choices[1, True, True, True]
    without = {
        "overlap": (1, False, True, True),
        "fp8_wire": (1, True, False, True),
        "node_limit": (1, True, True, False),
        "all three": (1, False, False, False),
        "no tensor parallelism": (8, True, True, True),
    }
    return {name: choices[key] - whole for name, key in without.items()}


def processors_s(reached: float, **choice) -> float:
    """At most so many seconds a step do the processors that move bytes cost.

    The fitted rates hold without them; with all processors for products these would be
    faster by 132 / 112, if nothing else held them up.

    Args:
        reached: what `v3_step.fit` found.
        choice: arguments of `deepseek_v3_step`.
    """
    program = Program(deepseek_v3_step(**choice), mirror=True)
    all_of_them = reached * PROCESSORS / (PROCESSORS - MOVING)
    slow, fast = (_step_s(program, "h800", rate) for rate in (reached, all_of_them))
    return slow - fast


def _step_s(
    program: Program, links: str, reached: float, hops: str = "pipelined"
) -> float:
    return play_ps(program, machine(links, reached), hops=hops) / PS_PER_S
