"""What goes between a learner's process and the judge, and what is refused."""

import math
import socket
import time

import numpy as np
import pytest
import torch

from tiny_lm.course.grade import after, channel, values
from tiny_lm.course.grade.channel import Channel, Gone
from tiny_lm.course.grade.values import Malformed, Receiver, Sender


def there_and_back(x):
    sender = Sender(lambda x: None)
    tree = sender.tree(x)
    return Receiver(sender.blobs).value(tree)


@pytest.mark.parametrize(
    "x",
    [
        None,
        True,
        3,
        -0.5,
        "text",
        [1, (2, "a")],
        {"idle": [1, 2], 3: 4.0},
        (),
        torch.arange(6).view(2, 3),
        torch.tensor([[-0.45, 1.6], [1e-3, 0.0], [-1.25, 3.0]]).T,
        torch.tensor([True, False]),
        torch.tensor(1.5, dtype=torch.bfloat16),
        torch.zeros(0, 4),
        torch.tensor([1.0, 448.0]).to(torch.float8_e4m3fn),
    ],
    ids=str,
)
def test_data_arrives_as_it_left(x):
    came = there_and_back(x)
    assert type(came) is type(x)
    if isinstance(x, torch.Tensor):
        assert (came.dtype, came.shape) == (x.dtype, x.shape)
        raw = (y.contiguous().reshape(-1).view(torch.uint8) for y in (came, x))
        assert torch.equal(*raw)
    else:
        assert came == x


def test_a_number_of_numpy_arrives_as_pythons():
    assert there_and_back(np.int64(3)) == 3
    assert type(there_and_back(np.float32(0.5))) is float


def test_what_is_no_data_arrives_as_its_name_and_text():
    class Odd:
        def __repr__(self):
            return "an odd thing"

    came = there_and_back(Odd())
    assert type(came).__name__ == "Odd"
    assert repr(came) == "an odd thing"


def test_what_can_be_gone_through_arrives_with_what_it_gives():
    came = there_and_back(x for x in (1, 2))
    assert type(came).__name__ == "generator"
    assert list(came) == [1, 2]


def test_a_number_without_end_is_infinite():
    assert there_and_back(10**4000) == math.inf
    assert Receiver([]).value(-(10**4000)) == -math.inf


@pytest.mark.parametrize(
    "node",
    [
        ["x", 0, "float32", [2], False],  # bytes of one number
        ["x", 1, "float32", [1], False],  # no such bytes
        ["x", 0, "float32", [-1], False],
        ["x", 0, "object", [1], False],
        ["x", True, "float32", [1], False],
        ["l", 3],
        ["d", [["a"]]],
        ["o", 0],
        ["run", "this"],
        [],
        {"a": 1},
        ["l", [["l", [["l", [0]]]] * 3] * 70_000],
    ],
    ids=lambda node: str(node)[:60],
)
def test_what_is_no_value_is_refused(node):
    with pytest.raises(Malformed):
        Receiver([b"\0\0\0\0"]).value(node)


def test_a_list_that_holds_itself_ends():
    endless: list = []
    endless.append(endless)
    assert "[...]" in repr(there_and_back(endless))


@pytest.fixture
def pair():
    ends = [Channel(one) for one in socket.socketpair()]
    yield ends
    for end in ends:
        end.close()


def test_a_message_brings_its_bytes(pair):
    pair[0].send({"kind": "call"}, [b"abc", b""])
    head, blobs = pair[1].receive(time.monotonic() + 5)
    assert head["kind"] == "call" and blobs == [b"abc", b""]


def test_whoever_is_silent_is_not_waited_for(pair):
    with pytest.raises(Gone, match="timeout"):
        pair[1].receive(time.monotonic() + 0.05)


def test_whoever_hangs_up_is_gone(pair):
    pair[0].close()
    with pytest.raises(Gone, match="ended"):
        pair[1].receive(time.monotonic() + 5)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff\xff",  # four gigabytes of header
        b"\0\0\0\2{]",
        b"\0\0\0\2[]",
        b'\0\0\0\x0c{"sizes": 3}',
        b'\0\0\0\x10{"sizes": [-1]} ',
        b'\0\0\0\x18{"sizes": [99999999999]}',
    ],
    ids=str,
)
def test_what_is_no_message_is_refused(pair, raw):
    pair[0].socket.sendall(raw)
    with pytest.raises(Gone, match="malformed"):
        pair[1].receive(time.monotonic() + 5)


def test_no_error_handler_of_a_check_takes_a_worker_that_is_gone_for_an_answer():
    assert not issubclass(channel.Gone, Exception)


def redone(change, *arguments):
    """What `change` does to copies, done to the arguments; the copies."""
    copies = tuple(
        x.clone() if isinstance(x, torch.Tensor) else [*x] for x in arguments
    )
    before = [after.snapshot(x) for x in copies]
    change(*copies)
    sender = Sender(lambda x: None)
    told = after.changes(sender, before, copies)
    after.redo(told, arguments, Receiver(sender.blobs))
    return copies, told


def test_nothing_is_told_where_nothing_changed():
    assert redone(lambda x: x + 1, torch.ones(3))[1] == []


@pytest.mark.parametrize("change", ["add_", "requires_grad_", "resize"])
def test_what_a_call_did_to_a_tensor_is_done_again(change):
    def do(x):
        if change == "add_":
            x.add_(1)
        elif change == "resize":
            x.resize_(2)
        else:
            (x.requires_grad_() * 2).sum().backward()

    x = torch.arange(4.0)
    (copy,), _ = redone(do, x)
    assert torch.equal(x.detach(), copy.detach())
    assert x.requires_grad == copy.requires_grad
    assert (x.grad is None) == (copy.grad is None)


def test_what_a_call_did_to_a_list_is_done_again():
    x = [1, 2, 3]
    redone(lambda x: x.pop(), x)
    assert x == [1, 2]


@pytest.mark.parametrize(
    "told",
    [[[7, {"value": ["x", 0, "float32", [1], False]}]], [3], [[0, {"value": 1}]], 5],
)
def test_a_change_that_no_call_makes_is_refused(told):
    with pytest.raises(Malformed):
        after.redo(told, (torch.ones(1),), Receiver([]))


def test_limits_are_below_what_a_judge_can_bear():
    assert values.HEAVY < channel.BYTES <= 100_000_000
