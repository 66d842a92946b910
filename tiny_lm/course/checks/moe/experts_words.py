"""What the check of task 2.4 says of errors and of usual mistakes.

Chapter: 02_moe/conditional_computation
Source: course
"""

UNFIT = (
    "Two shapes do not fit. gate_up[e] has a row for each of its 2 F outputs, down[e] "
    "one for each of its D: a row of tokens is multiplied with the transposed matrix. "
    "Between the two, gate and up become one of width F."
)
COUNTS = (
    "Counts and experts do not match. An expert that nobody chose counts 0, and is "
    "left out of counts that are made of what occurs: bincount has a minlength."
)
ERRORS = (
    ("cannot be multiplied", UNFIT),
    ("is shorter than argument", COUNTS),
    ("is longer than argument", COUNTS),
    ("is out of bounds for dimension 0", COUNTS),
    ("Offsets have to be int32", "The ends of the groups are .to(torch.int32)."),
    (
        "is invalid for input of size",
        "view wants groups of equal size. How many tokens an expert gets differs "
        "from expert to expert, and may be none.",
    ),
    (
        "is out of bounds for dimension 1",
        "weights has a column for each choice of a token, not for each expert: "
        "weights[token, choice].",
    ),
    (
        "must match the size",
        "Two shapes do not fit. One weight belongs to a whole row of results: "
        "shape (rows, 1), as weights[token, choice, None] has.",
    ),
)
INPUT_WEIGHED = (
    "The weight went in with the token, before the silu, which bends it. It belongs to "
    "what comes out."
)
SWAPPED = (
    "Gate and up are swapped. The first half of the rows of gate_up is the gate, and "
    "silu acts on the gate alone."
)
INTERLEAVED = (
    "Gate and up were taken in turns, row by row. The first half is the gate, the "
    "second is up."
)
RENORMALISED = (
    "The weights were divided by their sum once more. They come ready: the gate has "
    "seen to it, route_scale included."
)
OVERWRITTEN = (
    "One result overwrote the other: a second `y[token] = …` wipes out the first. "
    "`y[token] += …` adds, but where a token comes twice within one call it too keeps "
    "one, for it reads all before it writes any. index_add adds them all."
)
OTHER_COLUMN = (
    "A result was weighed with the weight of another choice: the same column of "
    "`weights` for all. Its own stands where its expert stands in `experts`."
)
OTHER_WEIGHT = (
    "The results were weighed with weights of other choices. Whatever sorts or "
    "selects the tokens has to do the same to their weights."
)
SKIPPED = (
    "Is each slice of tokens still multiplied with the matrices of its own expert? "
    "One that got none is skipped by everything that lists what occurs."
)
CUT = (
    "Without a gradient, what stands here never learns. Did .detach(), .data, "
    "torch.no_grad() or torch.tensor(…) cut it off?"
)
