"""Kernels: what a listener hears, forward and backward, and that silence is free."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tiny_lm import kernels
from tiny_lm.kernels import Work, emulation, fused, kernel, listen

FORWARD, BACKWARD = Work(1, 2, "fp32"), Work(3, 4, "fp32")


class Diary(TorchDispatchMode):
    """Kernels and the operations between them, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[object] = []

    def begin(self, name: str, work: Work | None) -> None:
        self.lines.append((name, work))

    def end(self) -> None:
        self.lines.append("end")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.lines.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@fused("mix", lambda x, y, power: (FORWARD, BACKWARD))
def mix(x: Tensor, y: Tensor, power: int) -> Tensor:
    return (x.sigmoid() @ y).pow(power)


def inputs(*wants: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 3, generator=generator).requires_grad_(w) for w in wants]


def test_a_listener_hears_where_a_kernel_begins_and_ends():
    diary = Diary()
    with listen(diary), diary:
        x = torch.ones(2)
        with kernel("outer", lambda: FORWARD):
            x = x + 1
            with emulation():
                x = x * 2
        x.exp()
    expected = [("outer", FORWARD), "add", ("", None), "mul", "end", "end", "exp"]
    assert diary.lines == ["ones", *expected]


def test_a_kernel_ends_where_it_fails():
    diary = Diary()
    with pytest.raises(KeyError), listen(diary), kernel("k", lambda: FORWARD):
        raise KeyError
    assert diary.lines == [("k", FORWARD), "end"]


def test_nobody_asks_for_the_work_where_nobody_listens():
    def refuse() -> Work:
        raise AssertionError

    assert not kernels.listening()
    with kernel("k", refuse), emulation():
        pass
    with listen(Diary()):
        assert kernels.listening()
        with pytest.raises(AssertionError), kernel("k", refuse):
            pass


def test_only_one_may_listen():
    with listen(Diary()):
        with pytest.raises(RuntimeError, match="a recording runs already"):
            with listen(Diary()):
                pass
        assert kernels.listening()
    assert not kernels.listening()


def test_a_fused_function_is_one_kernel_forward_and_one_backward():
    diary, (x, y) = Diary(), inputs(True, True)
    with listen(diary), diary:
        (mix(x.exp(), y, power=2).sin() * 2).sum().backward()
    lines = diary.lines
    first, second = lines.index(("mix", FORWARD)), lines.index(("mix", BACKWARD))
    first_end, second_end = (n for n, line in enumerate(lines) if line == "end")
    assert lines[:first] == ["exp"]
    assert lines[first + 1 : first_end] == ["sigmoid", "mm", "pow"]
    assert "cos" in lines[first_end:second]  # the sine's backward comes before …
    inside = lines[second + 1 : second_end]
    assert inside.count("mm") == 2 and "sigmoid_backward" in inside
    assert "cos" not in inside
    assert "mul" in lines[second_end:]  # … and that of exp after


def test_listening_changes_no_bit():
    (x, y), (heard_x, heard_y) = inputs(True, True), inputs(True, True)
    plain = mix(x, y, power=3)
    plain.sum().backward()
    with listen(Diary()):
        heard = mix(heard_x, heard_y, power=3)
        heard.sum().backward()
    assert torch.equal(plain, heard)
    assert torch.equal(x.grad, heard_x.grad) and torch.equal(y.grad, heard_y.grad)


@pytest.mark.parametrize("wants", [(True, False), (False, True)])
def test_one_input_that_wants_a_gradient_is_enough(wants):
    diary, (x, y) = Diary(), inputs(*wants)
    with listen(diary):
        mix(x, y, power=2).sum().backward()
    assert diary.lines == [("mix", FORWARD), "end", ("mix", BACKWARD), "end"]


def test_without_gradients_there_is_no_backward_kernel():
    diary = Diary()
    with listen(diary):
        assert not mix(*inputs(False, False), power=2).requires_grad
        with torch.no_grad():
            mix(*inputs(True, True), power=2)
    assert diary.lines == [("mix", FORWARD), "end"] * 2


def test_a_backward_pass_after_the_recording_is_not_heard():
    early, late, (x, y) = Diary(), Diary(), inputs(True, True)
    with listen(early):
        z = mix(x, y, power=2)
    with listen(late):
        z.sum().backward()
    assert early.lines == [("mix", FORWARD), "end"] and not late.lines


def test_repeated_values_are_stored_once():
    x = torch.zeros(4, 3)
    assert kernels.num_bytes(x, x[:2]) == 48 + 24
    assert kernels.num_bytes(x[:1].expand(10, 3)) == 12
    assert kernels.num_bytes(torch.zeros(0, 3)) == 0
    assert kernels.num_bytes(torch.zeros(5, dtype=torch.bfloat16)) == 10


def test_precisions_are_those_of_a_tape():
    assert kernels.precision(torch.float8_e4m3fn) == "fp8"
    assert kernels.precision(torch.bfloat16) == "bf16"
    assert kernels.precision(torch.float32) == "fp32"
    assert kernels.precision(torch.float64) == "fp64"
    assert kernels.precision(None) == "fp32"
