"""What a rank holds: spans of rows that are the same in every layout."""

from functools import partial

import pytest
import torch
from kept_runs import Toy

from tiny_lm.gpus.mesh import Group
from tiny_lm.parallel import spans

SECOND_OF_FOUR = Group(1, 4, object())


def test_shared_weights_are_whole_rows_and_experts_an_equal_part():
    found = spans.of_state(Toy().state_dict(), SECOND_OF_FOUR, Toy.is_expert)
    assert found["matrix"].numbers.tolist() == [0, 1, 2, 3, 4, 5]
    assert found["matrix"][1:] == (0, 6)
    assert found["experts"].numbers.tolist() == list(range(8))
    assert found["experts"][1:] == (8, 32)  # experts 2 and 3 of 8


def test_a_span_is_the_memory_itself():
    toy = Toy()
    found = spans.of_state(toy.state_dict(), SECOND_OF_FOUR, Toy.is_expert)
    found["matrix"].numbers[4] = 70.0
    assert toy.matrix[1, 1] == 70.0


def test_begun_states_are_those_that_adamw_makes_itself():
    toy, other = Toy(), Toy()
    optimizers = [
        torch.optim.AdamW(t.parameters(), lr=0.1, fused=True) for t in (toy, other)
    ]
    spans.begin_states(optimizers[0], 3)
    for parameter in other.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(3):
        optimizers[1].step()
    for mine, wanted in zip(*(o.state.values() for o in optimizers), strict=True):
        assert list(mine) == list(wanted)
        assert torch.equal(mine["step"], wanted["step"])
        assert mine["step"].dtype == wanted["step"].dtype
        for kind in ("exp_avg", "exp_avg_sq"):
            assert mine[kind].shape == wanted[kind].shape and not mine[kind].any()
            assert mine[kind].dtype == wanted[kind].dtype


@pytest.mark.parametrize("kind", ["exp_avg", "exp_avg_sq"])
def test_states_are_named_by_what_is_kept_and_of_which_parameter(kind):
    toy = Toy()
    optimizer = torch.optim.AdamW(toy.parameters(), lr=0.1)
    spans.begin_states(optimizer, 1)
    of = partial(spans.of_optimizer, optimizer, toy, SECOND_OF_FOUR, Toy.is_expert)
    assert {f"{kind}.matrix", f"{kind}.vector", f"{kind}.experts"} <= set(of())
    assert not any(name.startswith("step") for name in of())
