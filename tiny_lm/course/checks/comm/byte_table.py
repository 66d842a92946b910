"""Task 5.2: the bytes that each rank sends to each other, from the router's choices.

Chapter: 05_comm/collectives
Source: deepseek_v3, section 3.2.2
"""

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, family
from tiny_lm.course.checks.task import Task


def byte_table(
    experts: Int[Tensor, "ranks N k"],
    num_experts: int,
    width: int,
    fp8: bool,
    ranks_per_place: int,
) -> Int[Tensor, "ranks places"]:
    """Bytes that each rank's tokens send to each place."""
    num_ranks = len(experts)
    num_places = num_ranks // ranks_per_place
    place = experts // (num_experts // num_places)
    copies = F.one_hot(place, num_places).amax(dim=2)
    rows = copies.sum(dim=1)
    own = torch.arange(num_ranks) // ranks_per_place
    leaves = own.unsqueeze(1) != torch.arange(num_places)
    row_bytes = width + 4 * (width // 128) if fp8 else 2 * width
    return rows * leaves * row_bytes


task_5_2 = Task(
    id="5.2",
    lab="05_comm",
    title="Who sends how much to whom",
    name="byte_table",
    piece="comm.byte_table",
    difficulty=2,
    minutes=20,
    points=3,
    reference=byte_table,
    any_width=True,
    errors={
        "Class values must be smaller than num_classes": "An expert was taken for a "
        "place. Expert e lives at place e // (experts of one place).",
        "one_hot is only applicable to index tensor": "Ids of places are whole "
        "numbers: divide with //.",
    },
    hints=(
        """
        First only where: write down the place of each choice of a token. Then: if two
        choices of a token have the same place, how often does the token travel there?
        """,
        """
        A place has num_experts // num_places experts, in order: the place of expert e
        is e // that. For each token and each place, ask whether *any* of the k choices
        lies there; add that up over the tokens of a rank. Then set to 0 what stays at
        the rank's own place, and multiply with the bytes of a copy.
        """,
        """
        F.one_hot(place, num_places) is [ranks, N, k, places]; .amax(dim=2) asks for
        any, .sum(dim=1) counts tokens. The own place of rank r is r // ranks_per_place.
        A copy in FP8 has width codes of a byte and width // 128 scales of 4 bytes.
        """,
    ),
)

# Four ranks of two experts each, or two nodes of two ranks.
HERE = [
    [[2, 4], [3, 7]],  # rank 0: to 1 and 2, to 1 and 3
    [[0, 2], [1, 4]],  # rank 1: to 0 and itself, to 0 and 2
    [[4, 5], [4, 6]],  # rank 2: to itself twice, to itself and 3
    [[0, 2], [6, 7]],  # rank 3: to 0 and 1, to itself twice
]
TWICE = [
    [[2, 3], [4, 6]],  # rank 0: both to 1; to 2 and 3
    [[4, 5], [4, 7]],
    [[0, 1], [0, 2]],
    [[0, 2], [2, 4]],
]
WHOLE = "width 128 in BF16: a copy has 256 bytes"
NODES = (
    "experts 0 to 3 live on node 0 (ranks 0 and 1), 4 to 7 on node 1 (ranks 2 and 3)"
)
SCALES = "width + 4 * (width // 128) if fp8"
FLOATS = (
    "Bytes are whole numbers, and these are floats. `/` makes floats, and so does "
    "torch.zeros without a dtype: use //, and dtype=torch.int64."
)
BALANCED = (
    "Every rank is taken to get as much as every other: the choices were not looked at "
    "one by one. Routers are never so even, and the fullest port decides the time."
)

where = task_5_2.asks(
    "a row is who sends, a column who gets; what stays is not sent",
    case(HERE, 8, 128, False, 1, note=f"places are ranks of two experts; {WHOLE}"),
    otherwise="Which tokens of rank 0 have a choice on rank 1? Count those by hand.",
    mistakes={
        "rows * leaves * row_bytes => rows * leaves * float(row_bytes)": FLOATS,
        "return rows * leaves * row_bytes => "
        "return (rows * leaves * row_bytes).T": "Rows and columns have changed places: "
        "row r is what rank r sends.",
        "rows * leaves * row_bytes => rows * row_bytes": "What a rank has for "
        "itself is in the table. It never leaves the GPU.",
        "experts // (num_experts // num_places) => experts % num_places": "Experts "
        "were dealt out in turn. Neighbours live together: the first num_experts // "
        "places at place 0, and so on.",
        "rows * leaves * row_bytes => rows * leaves": "These are copies. Each has its "
        "bytes.",
        "copies.sum(dim=1) => copies.amax(dim=1)": "Tokens were counted once, all "
        "together. Each that goes there is a copy.",
        "own = torch.arange(num_ranks) // ranks_per_place => "
        "own = torch.arange(num_ranks) * 0": "Nothing is sent to the own place, and "
        "that is not place 0 for every rank.",
        f"{SCALES} else 2 * width => width + 4 * (width // 128)": "All was counted "
        "as FP8.",
        f"{SCALES} else 2 * width => {SCALES} else 4 * width": "BF16 has 2 bytes a "
        "number.",
        "F.one_hot(place, num_places).amax(dim=2) => "
        "F.one_hot(place, num_places)[:, :, 0]": "Only the first choice of each token "
        "was looked at. It travels to all of its experts.",
    },
)


@where.mistake(BALANCED)
def balanced(experts, num_experts, width, fp8, ranks_per_place):
    num_ranks, num_tokens, top_k = experts.shape
    num_places = num_ranks // ranks_per_place
    rows = torch.full((num_ranks, num_places), num_tokens * top_k // num_places)
    rows[torch.arange(num_ranks), torch.arange(num_ranks) // ranks_per_place] = 0
    return rows * (width + width // 32 if fp8 else 2 * width)


task_5_2.asks(
    "a token goes to a place once, with however many of its experts there",
    case(TWICE, 8, 128, False, 1, note=f"places are ranks of two experts; {WHOLE}"),
    otherwise="Does a token with two experts on one rank travel there twice?",
    mistakes={
        ".amax(dim=2) => .sum(dim=2)": "A token with two experts at one place was "
        "counted twice. It travels once, and is used there twice.",
    },
)

PER_RANK = (
    "A token with experts on two ranks of a node was counted twice. The place is the "
    "node: one copy crosses the network, and is handed on inside."
)
inside = task_5_2.asks(
    "a place may be a node: one copy for all its ranks, none to the own",
    case(HERE, 8, 128, False, 2, note=f"{NODES}; {WHOLE}"),
    case(TWICE, 8, 128, False, 2, note=f"{NODES}; {WHOLE}"),
    otherwise="Two ranks of a node have one place. Which node is each rank in?",
    mistakes={
        "own = torch.arange(num_ranks) // ranks_per_place => "
        "own = torch.arange(num_ranks) % num_places": "The own place of rank r is "
        "r // ranks_per_place: neighbours share a node.",
    },
)


@inside.mistake(PER_RANK)
def for_each_rank(experts, num_experts, width, fp8, ranks_per_place):
    num_ranks = len(experts)
    to_rank = byte_table(experts, num_experts, width, fp8, 1)
    table = to_rank.view(num_ranks, -1, ranks_per_place).sum(2)
    ranks = torch.arange(num_ranks)
    table[ranks, ranks // ranks_per_place] = 0
    return table


task_5_2.asks(
    "a copy in FP8 has its scales with it, one for 128 numbers",
    case(HERE, 8, 256, True, 1, note="width 256 in FP8: 256 codes and 2 scales"),
    case(HERE, 8, 256, False, 1, note="width 256 in BF16: 512 bytes"),
    otherwise="256 codes of 1 byte and 2 scales of 4 bytes are 264 bytes.",
    mistakes={
        "4 * (width // 128) => 4 * (width / 128)": FLOATS,
        "4 * (width // 128) => 4 * 128": "128 scales were counted. There is one for "
        "128 numbers, so width // 128 of them.",
        f"{SCALES} => width if fp8": "The scales were forgotten. Without them the "
        "codes mean nothing: they travel along, 4 bytes for each 128 numbers.",
        f"{SCALES} => width + width // 128 if fp8": "A scale has 4 bytes, not 1.",
        f"{SCALES} => width + 4 if fp8": "One scale a copy was counted. Each tile of "
        "128 numbers has its own.",
        f"{SCALES} else 2 * width => 2 * width": "All was counted as BF16.",
    },
)


def _draw(g: Generator, N: int, k: int, per: int) -> tuple:
    scores = torch.rand(8, N, 64, generator=g) * torch.linspace(0.5, 1, 64)
    return scores.topk(k).indices, 64, 256, True, per


task_5_2.asks(
    "equals the definition where some experts are far busier than others",
    family(_draw, {"N": 50, "k": 6, "per": 4}, ones=["N", "k", "per"]),
    case(torch.zeros(4, 0, 2, dtype=torch.int64), 8, 128, False, 2, note="no tokens"),
)


@task_5_2.accepts
def with_sets(experts, num_experts, width, fp8, ranks_per_place):
    num_ranks = experts.shape[0]
    places = num_ranks // ranks_per_place
    each = num_experts // places
    table = [[0] * places for _ in range(num_ranks)]
    for rank, tokens in enumerate(experts.tolist()):
        for choices in tokens:
            for place in {expert // each for expert in choices}:
                if place != rank // ranks_per_place:
                    table[rank][place] += (width + width // 32) if fp8 else 2 * width
    return torch.tensor(table)


@task_5_2.accepts
def place_by_place(experts, num_experts, width, fp8, ranks_per_place):
    num_ranks = len(experts)
    home = torch.arange(num_ranks) // ranks_per_place
    homes = torch.arange(num_experts) * (num_ranks // ranks_per_place) // num_experts
    columns = []
    for place in range(num_ranks // ranks_per_place):
        here = (homes[experts] == place).any(-1).sum(-1)
        columns.append(torch.where(home == place, 0, here))
    size = width * 33 // 32 if fp8 else width * 2
    return torch.stack(columns, dim=1).int() * size
