"""Answers to task 1.4 that are wrong, and some that are right in another style.

Chapter: 01_baseline/cost
Source: course
"""

from tiny_lm.course.checks.baseline.cost import task_1_4
from tiny_lm.course.checks.before.mutants import honest, wrong


def _cost(V, D, L, F, s, *, once=None, layer=None, met=None, core=None):
    """Right with its defaults; each argument is a place to go wrong."""
    once = 2 * V * D + D if once is None else once
    layer = 4 * D * D + 3 * D * F + 2 * D if layer is None else layer
    parameters = once + L * layer
    met = parameters - V * D if met is None else met
    core = 6 * D * s * L if core is None else core
    return parameters, 6 * met + core


@wrong(task_1_4, "parameters_by_hand", "the head, a second matrix")
def no_head(V, D, L, F, s):
    return _cost(V, D, L, F, s, once=V * D + D)


@wrong(task_1_4, "parameters_by_hand", "three matrices, gate, up and down")
def two_matrices(V, D, L, F, s):
    return _cost(V, D, L, F, s, layer=4 * D * D + 2 * D * F + 2 * D)


@wrong(task_1_4, "parameters_by_hand", "queries, keys, values and the output")
def no_output_matrix(V, D, L, F, s):
    return _cost(V, D, L, F, s, layer=3 * D * D + 3 * D * F + 2 * D)


@wrong(task_1_4, "parameters_by_hand", "three norms of D weights each")
def no_norms(V, D, L, F, s):
    return _cost(V, D, L, F, s, once=2 * V * D, layer=4 * D * D + 3 * D * F)


@wrong(task_1_4, "parameters_by_hand", "the norm before the head")
def no_last_norm(V, D, L, F, s):
    return _cost(V, D, L, F, s, once=2 * V * D)


@wrong(task_1_4, "parameters_by_hand", "two numbers: parameters, FLOPs per token")
def three_numbers(V, D, L, F, s):
    return *_cost(V, D, L, F, s), s


@wrong(task_1_4, "parameters_by_hand", "two numbers: parameters, FLOPs per token")
def parameters_alone(V, D, L, F, s):
    return _cost(V, D, L, F, s)[0]


@wrong(task_1_4, "parameters_by_layer", "changes nothing")
def one_layer(V, D, L, F, s):
    return _cost(V, D, 1, F, s)


@wrong(task_1_4, "parameters_by_layer", "embedding and head included")
def all_in_every_layer(V, D, L, F, s):
    parameters, flops = _cost(V, D, 1, F, s)
    return L * parameters, L * flops


@wrong(task_1_4, "parameters_by_layer", "The last norm is counted again")
def last_norm_in_every_layer(V, D, L, F, s):
    layer = 4 * D * D + 3 * D * F + 3 * D
    return _cost(V, D, L, F, s, once=2 * V * D, layer=layer)


@wrong(task_1_4, "parameters_of_a_model", "as many as model.parameters() has")
def inner_width_guessed(V, D, L, F, s):
    return _cost(V, D, L, 2 * D, s)


@wrong(task_1_4, "flops_by_hand", "scores and mixing")
def six_times(V, D, L, F, s):
    return _cost(V, D, L, F, s, core=0)


@wrong(task_1_4, "flops_by_hand", "This is the forward pass. The backward")
def forward_alone(V, D, L, F, s):
    parameters, flops = _cost(V, D, L, F, s)
    return parameters, flops // 3


@wrong(task_1_4, "flops_by_hand", "it costs no FLOPs")
def embedding_multiplied(V, D, L, F, s):
    return _cost(V, D, L, F, s, met=_cost(V, D, L, F, s)[0])


@wrong(task_1_4, "flops_by_hand", "on average half")
def sees_every_key(V, D, L, F, s):
    return _cost(V, D, L, F, s, core=12 * D * s * L)


@wrong(task_1_4, "flops_by_hand", "have a backward pass too")
def core_forward_alone(V, D, L, F, s):
    return _cost(V, D, L, F, s, core=2 * D * s * L)


@wrong(task_1_4, "flops_by_hand", "mixing the values a second")
def scores_alone(V, D, L, F, s):
    return _cost(V, D, L, F, s, core=3 * D * s * L)


@wrong(task_1_4, "flops_by_hand", "Wanted is one")
def whole_sequence(V, D, L, F, s):
    parameters, flops = _cost(V, D, L, F, s)
    return parameters, s * flops


@wrong(task_1_4, "flops_of_models", "")
def core_of_one_layer(V, D, L, F, s):
    return _cost(V, D, L, F, s, core=6 * D * s)


@honest(task_1_4)
def without_norms_in_the_flops(V, D, L, F, s):
    matrices = L * (4 * D**2 + 3 * D * F) + V * D
    norms = (2 * L + 1) * D
    return matrices + V * D + norms, 3 * (2 * matrices + L * 2 * s * D)


@honest(task_1_4)
def added_up_in_a_loop(vocab, width, layers, inner, length):
    parameters, flops = vocab * width, 0.0

    def matrix(rows, columns):
        nonlocal parameters, flops
        parameters += rows * columns
        flops += 6.0 * rows * columns

    for _ in range(layers):
        for _ in range(4):
            matrix(width, width)
        for _ in range(3):
            matrix(width, inner)
        matrix(2, width)
        flops += 3 * 2 * 2 * width * length / 2
    matrix(1, width)
    matrix(width, vocab)
    return [parameters, flops]
