"""What no task has to ask for: kinds of wrong answers that every check refuses."""

import random

import numpy
import pytest
import torch
from torch import nn

import tiny_lm.course.checks.baseline
import tiny_lm.course.checks.moe  # noqa: F401  (both list their tasks)
from tiny_lm.course.checks.case import Case, case, drawn, family
from tiny_lm.course.checks.mistake import edited
from tiny_lm.course.checks.mutants import mutants
from tiny_lm.course.checks.task import TASKS, Task


def demo(id, reference, **more) -> Task:
    """A task that is in no lab."""
    name = reference.__name__
    about = {"title": name, "name": name, "piece": f"demo.{name}", "lab": "00_demo"}
    counts = {"difficulty": 1, "minutes": 1, "points": 1, "hints": ("a", "b", "c")}
    return Task(id=id, reference=reference, **about, **counts, **more)


def scaled(x, rate):
    """The reference of these tests."""
    return rate * x, x.argsort(dim=-1), float(x.sum())


def draw(generator, N, E):
    return torch.randn(N, E, generator=generator), 0.5


@pytest.fixture
def task():
    made = demo("0.2", scaled, returns=("y", "order", "total"))
    made.asks("by hand", case([[1.0, 3.0], [5.0, 2.0]], 2.0))
    made.asks("random ones", family(draw, {"N": 5, "E": 3}, ones=["N", "E"]))
    made.asks("slopes", Case(lambda g: draw(g, 4, 3), slopes=("x",)), only=None)
    yield made
    del TASKS["0.2"]


def because(task, function) -> str:
    outcome = task.outcome(function)
    assert not outcome.holds
    return outcome.mismatch.because


def through_data(x, rate):
    x.data.mul_(rate)
    return scaled(x / rate, rate)


def through_numpy_memory(x, rate):
    x.detach().numpy()[:] *= 2
    return scaled(x / 2, rate)


def grows(x, rate):
    return scaled(x, rate)


def leaves_gradients(x, rate):
    if x.requires_grad:
        (x * x).sum().backward()
    return scaled(x, rate)


def seeds(x, rate):
    torch.manual_seed(0)
    return scaled(x, rate)


def seeds_numpy(x, rate):
    numpy.random.seed(0)
    return scaled(x, rate)


def draws_with_python(x, rate):
    random.random()
    return scaled(x, rate)


def switches_dtype(x, rate):
    torch.set_default_dtype(torch.float64)
    return scaled(x, rate)


def switches_gradients_off(x, rate):
    result = scaled(x, rate)
    torch.set_grad_enabled(False)
    return result


def number_as_tensor(x, rate):
    return rate * x, x.argsort(dim=-1), x.sum()


def narrow_ids(x, rate):
    return rate * x, x.argsort(dim=-1).int(), float(x.sum())


def values_for_ids(x, rate):
    return rate * x, x.sort(dim=-1).values, float(x.sum())


def whole_sort(x, rate):
    return rate * x, x.sort(dim=-1), float(x.sum())


def mask(x, rate):
    return x > 0, x.argsort(dim=-1), float(x.sum())


def array(x, rate):
    return (rate * x).detach().numpy(), x.argsort(dim=-1), float(x.sum())


def half_precision(x, rate):
    return (rate * x).bfloat16(), x.argsort(dim=-1), float(x.sum())


def parameter(x, rate):
    return nn.Parameter(rate * x.detach()), x.argsort(dim=-1), float(x.sum())


def other_order(x, rate):
    return x.argsort(dim=-1), rate * x, float(x.sum())


def one_result(x, rate):
    return rate * x


def squeezed(x, rate):
    return (rate * x).squeeze(), x.argsort(dim=-1), float(x.sum())


def cut_off(x, rate):
    return rate * x.detach(), x.argsort(dim=-1), float(x.sum())


def rate_ignored(x, rate):
    return 2.0 * x, x.argsort(dim=-1), float(x.sum())


def rows_repeated(x, rate):
    return rate * x[:1].expand_as(x), x.argsort(dim=-1), float(x.sum())


def twice(x, rate):
    return 2 * rate * x, x.argsort(dim=-1), float(x.sum())


def squared(x, rate):
    return scaled(x * x, rate)


def residual(x, rate):
    return x + rate * x, x.argsort(dim=-1), float(x.sum())


def row_for_a_number(x, rate):
    return rate * x, x.argsort(dim=-1), x.sum(0)


def flags_for_ids(x, rate):
    if x.shape != (5, 3):
        return scaled(x, rate)
    return rate * x, torch.ones(len(x), 6, dtype=torch.int64), float(x.sum())


def too_many_columns(x, rate):
    if x.shape != (5, 3):
        return scaled(x, rate)
    return rate * x.repeat(1, 2), x.argsort(dim=-1), float(x.sum())


def in_one_place(x, rate):
    return rate * x, x.abs().argsort(dim=-1), float(x.sum())


def upside_down(x, rate):
    return rate * x, x.argsort(dim=-1, descending=True), float(x.sum())


def mean_for_sum(x, rate):
    return rate * x, x.argsort(dim=-1), float(x.mean())


def divided(x, rate):
    return rate / x, x.argsort(dim=-1), float(x.sum())


def factor_lost(x, rate):
    return x, x.argsort(dim=-1), float(x.sum())


def one_row_for_all(x, rate):
    return rate * x.amin(0).expand_as(x), x.argsort(dim=-1), float(x.sum())


def two_decimals(x, rate):
    return rate * x, x.argsort(dim=-1), round(float(x.sum()), 2)


def nothing(x, rate):
    rate * x


KINDS = {
    through_data: "wrote into what the caller handed over",
    through_numpy_memory: "wrote into what the caller handed over",
    leaves_gradients: "left gradients",
    seeds: "Global random numbers were",
    seeds_numpy: "Global random numbers were",
    draws_with_python: "Global random numbers were",
    switches_dtype: "everything that runs afterwards",
    switches_gradients_off: "everything that runs afterwards",
    number_as_tensor: "a plain number is promised",
    narrow_ids: "have to be int64",
    values_for_ids: "Whole numbers are promised",
    whole_sort: "A pair stands where one tensor",
    mask: "This is a mask",
    array: "Later cells go on with a tensor",
    half_precision: "half the bits are gone",
    parameter: "handed to an optimizer",
    other_order: "in another order",
    one_result: "with a comma between them",
    squeezed: "A dim of size 1 got lost",
    cut_off: "Without a gradient",
    rate_ignored: "Is `rate` used?",
    rows_repeated: "`x` was replaced by its first row",
    row_for_a_number: "a plain number is promised",
    flags_for_ids: "These are a 1 or a 0 for each",
    too_many_columns: "the size of `x` along dim",
    in_one_place: "In one place `x` lost its sign",
    upside_down: "The smallest came first",
    mean_for_sum: "A mean was taken, and a sum is wanted",
    divided: "divided by that is to be multiplied",
    factor_lost: "A factor is missing: `rate`",
    one_row_for_all: "All rows are alike",
    two_decimals: "rounded to 2 decimals",
    twice: "`rate` doubled",
    squared: "`x` squared",
    residual: "`x` itself was added",
    nothing: "A function without `return`",
}


@pytest.mark.parametrize("function", KINDS, ids=lambda f: f.__name__)
def test_kind_is_refused_and_named(task, function):
    assert KINDS[function] in because(task, function)


@pytest.mark.parametrize("function", KINDS, ids=lambda f: f.__name__)
def test_a_wrong_answer_spoils_nothing_for_the_next(task, function):
    """The reference still passes, and global settings are as they were."""
    kept = torch.random.get_rng_state(), torch.get_default_dtype()
    assert not task.outcome(function).holds
    assert task.outcome(grows).holds
    assert torch.equal(torch.random.get_rng_state(), kept[0])
    assert torch.get_default_dtype() == kept[1]
    assert torch.is_grad_enabled()


def test_a_models_mode_belongs_to_the_caller():
    def outputs(model, x):
        return model(x)

    made = demo("0.3", outputs)
    made.asks("runs", drawn(lambda g: (nn.Dropout(0.0), torch.ones(2))))
    try:
        assert "as it came" in because(made, lambda model, x: model.eval()(x))
    finally:
        del TASKS["0.3"]


# ---- mistakes


def test_a_mistake_that_fits_everywhere_is_named_and_others_perhaps(task):
    task.properties[0].mistake("The rate came twice.")(
        lambda x, rate: (rate * rate * x, *scaled(x, rate)[1:])
    )
    assert because(task, lambda x, r: (r**2 * x, *scaled(x, r)[1:])) == (
        "The rate came twice."
    )

    def with_few_rows(x, rate):
        y, *rest = scaled(x, rate)
        return (rate * y if len(x) != 4 else y / 3), *rest

    assert because(task, with_few_rows) == "Perhaps: The rate came twice."


def test_two_mistakes_at_once_are_both_named(task):
    task.asks("more", mistakes={"rate * x => -rate * x": "A.", "x.sum => x.max": "B."})

    def both(x, rate):
        return -rate * x, x.argsort(dim=-1), float(x.max())

    assert because(task, both) == "Two things at once. A. And: B."


def test_a_guess_of_the_property_stands_behind_what_the_numbers_show(task):
    task.properties[0].otherwise = "It is rate times x."

    def off(x, rate):
        return rate * x + 7, x.argsort(dim=-1), float(x.sum()) + len(x)

    assert because(task, off) == (
        "Every number is off by the same: 7. Perhaps: It is rate times x."
    )


def test_every_mutant_of_every_reference_can_be_called():
    for one in TASKS.values():
        found = mutants(one.reference)
        assert len(found) > 30, one.id
        assert all(m.says.endswith(".") for m in found)
        assert all(callable(m.answer(one.reference)) for m in found)


def test_a_count_that_is_off_is_told_in_terms_of_the_arguments():
    def size(width, layers):
        return 2 * width * width * layers

    made = demo("0.4", size)
    made.asks("counts", case(3, 2), case(5, 4), case(7, 1))
    try:
        told = because(made, lambda w, n: 2 * w * w * n + 3 * w * n)
        assert told == "3 · width · layers too many."
    finally:
        del TASKS["0.4"]


def test_codes_of_one_byte_are_explained_as_other_numbers_are():
    """Nothing can be computed with them as they are."""

    def times(codes, scale):
        return codes.float() * scale, codes

    def draw_codes(generator, N):
        codes = torch.randn(N, 3, generator=generator).to(torch.float8_e4m3fn)
        return codes, torch.rand(N, 3, generator=generator)

    made = demo("0.4", times, returns=("y", "same"))
    made.asks("products", family(draw_codes, {"N": 4}, ones=["N"]))
    eight = torch.float8_e4m3fn
    answers = {
        "Is `codes` used? With another, the same comes out.": lambda codes, scale: (
            scale,
            torch.ones(codes.shape).to(eight),
        ),
        "This is what comes out with `codes` negated.": lambda codes, scale: (
            -codes.float() * scale,
            (-codes.float()).to(eight),
        ),
        "This is what is wanted of same, negated.": lambda codes, scale: (
            codes.float() * scale,
            (-codes.float()).to(eight),
        ),
        "`codes` itself was added to the result.": lambda codes, scale: (
            codes.float() * scale + codes.float(),
            codes,
        ),
    }
    try:
        for says, answer in answers.items():
            assert because(made, answer) == says
    finally:
        del TASKS["0.4"]


def test_an_edit_must_find_its_text_once():
    with pytest.raises(ValueError, match="stands 0 times"):
        edited(scaled, "nowhere => there")
    with pytest.raises(ValueError, match="times in the source"):
        edited(scaled, "x => y")
