"""What usual error messages of torch mean, in a learner's words.

Chapter: index
Source: course

A task may know more about one of them: its own `errors` are looked at first.
"""

ERRORS = {
    "mat1 and mat2 shapes cannot be multiplied": "Two shapes do not fit. A product "
    "sums over the last dim of the first matrix and the first dim of the second.",
    "must match the size": "Two shapes do not fit. A reduction without keepdim=True "
    "drops its dim, and (N,) does not line up with (N, k).",
    "is out of bounds for dimension": "An index is larger than the dim it reads. "
    "Whose numbers are these, and of which dim are they meant?",
    "index out of range": "An index is larger than what it reads.",
    "out of bounds": "An index is larger than what it reads.",
    "k out of range": "topk looked along a dim that holds fewer numbers than are to "
    "be chosen. Which dim is meant?",
    "1-d non-negative": "bincount counts one row of whole numbers from 0 up: flatten "
    "what is to be counted.",
    "could not infer output dtype": "torch takes no mean of whole numbers: turn them "
    "into floats for it.",
    "can't be cast to the desired output type": "A fraction does not fit into an "
    "integer tensor: turn it into floats first.",
    "Boolean value of Tensor with more than one value": "`if` needs one truth, and "
    "here is one for each entry: let torch.where or a mask decide for all at once.",
    "does not require grad": "What was to be differentiated has lost its way back: no "
    ".item(), .detach(), numpy or torch.no_grad() before it.",
    "that requires grad": "numpy and float(…) take no tensor that wants a gradient, "
    "and what went through them has none: stay in torch.",
    "is being used in an in-place operation": "An operation in place wrote into what "
    "the caller handed over. Work on a new tensor.",
    "modified by an inplace operation": "An operation in place wrote over a number "
    "that the gradient still needs. Work on a new tensor.",
    "to have the same dtype": "Numbers of two dtypes meet. `.to(x.dtype)` brings one "
    "to the other.",
    "expected scalar type": "Numbers of two dtypes meet. `.to(x.dtype)` brings one to "
    "the other.",
    "Expected dtype int64 for index": "gather and scatter take int64 for ids: "
    "`.long()`.",
    "division by zero": "Something that is divided by is 0 here. What is wanted then?",
    "is invalid for input of size": "view and reshape keep all numbers: the sizes "
    "multiply to another count. Take sizes from the tensors, not from the keyboard.",
    "view size is not compatible": "view takes only what lies in one run of memory: "
    "after a transpose use reshape, or flatten.",
    "not enough values to unpack": "Fewer things came than are named on the left.",
    "too many values to unpack": "More things came than are named on the left. A "
    "tensor unpacks along its first dim.",
    "unexpected keyword argument": "Which names does the function take that is called "
    "there?",
    "is not defined": "A name is used that nothing was assigned to. Is it spelt alike, "
    "and is the cell run that makes it?",
    "has no attribute": "What is in front of the dot has no such thing. Is it what you "
    "think it is? `print(type(…))` tells.",
    "Dimension out of range": "A dim is named that the tensor does not have: look at "
    "its shape just before this line.",
    "only one element tensors": "One number is wanted there, and a tensor holds many.",
    "a Tensor with": "One number is wanted there, and a tensor holds many.",
}


def meaning(error: str, own: dict[str, str]) -> str:
    """The sentence for the first known fragment of an error message, or nothing."""
    known = (say for part, say in [*own.items(), *ERRORS.items()] if part in error)
    return next(known, "")
