"""What the check of task 2.2 says of errors and of usual mistakes.

Chapter: 02_moe/balance
Source: course
"""

ERRORS = (
    (
        "must match the size",
        "Two shapes do not fit. A sum over the experts of each token leaves shape "
        "(N,); keepdim=True makes it (N, 1), and each row is divided by its own sum.",
    ),
    (
        "is out of bounds for dimension 0",
        "scores[experts] takes the ids for numbers of rows, that is, of tokens. To "
        "read entries inside each row, there is gather.",
    ),
    (
        "indexing tensors could not be broadcast",
        "Two indices in one pair of brackets must fit each other: numbers of rows of "
        "shape (N, 1) fit ids of shape (N, k). Or use gather.",
    ),
)
EVERYBODYS = (
    "scores[:, experts] reads the ids of all tokens in the row of each. There is one "
    "row of ids for each token: gather reads each row by its own."
)
UNDIVIDED = "These are the raw scores. The weights of one token add up to 1 here."
OTHERS = "Each expert got the other's weight: the two results must keep one order."
OVER_ALL = (
    "The scores were divided by the sum over all experts, so the weights of the chosen "
    "do not add up to 1. Whose sum is it?"
)
OVER_TOKENS = "The scores were divided by the sum over both tokens: each has its own."
SOFTMAX = (
    "A softmax was used to make weights. The scores have been through their sigmoid; "
    "now each is divided by the plain sum."
)
NEGATIVE = (
    "All biased scores are negative here. Is one of them compared with a 0, or cut "
    "off at it?"
)
OF_OTHERS = (
    "These belong to experts 0 and 2. Read the raw scores of those that were chosen."
)
WEIGHED = (
    "The bias got into the weights: expert 3 counts as if it suited the token. It was "
    "only to be chosen more often. Which scores does topk give back as values?"
)
CUT = (
    "The router learns through these weights. Did .detach(), torch.no_grad() or .data "
    "cut them from the scores?"
)
RULE = (
    "A loss would now move the bias. It is set by a rule, from the load alone: it must "
    "not stand in anything that is multiplied or added to a weight."
)
BELOW = (
    "The sum that divides was detached. A weight depends on the scores of the other "
    "chosen experts too: they are in the sum."
)
