"""The table that compares both libraries shows the products of a real step."""

import torch

from tiny_lm import matmul
from tiny_lm.config import tiny
from tiny_lm.course.bench import libraries
from tiny_lm.course.bench.turns import in_turns


def test_each_step_runs_by_the_library_it_is_named_for():
    seen = []
    for name in matmul.LIBRARIES:
        libraries.by(name, lambda: seen.append(matmul.library()))()
    assert seen == list(matmul.LIBRARIES)


def test_every_linear_layer_is_measured(monkeypatch):
    monkeypatch.setattr(libraries, "ROUNDS", 1)
    shapes = libraries.layer_shapes()
    assert shapes[tiny().vocab_size, tiny().d_model] == 1  # the head
    lines = list(libraries.layers(num_rows=8))
    assert len(lines) == 3 * len(shapes)
    assert sum(line.count for line in lines) == 3 * shapes.total()
    assert set(lines[0].seconds) == set(matmul.LIBRARIES)


def test_the_experts_products_are_measured_as_a_layer_makes_them(monkeypatch):
    monkeypatch.setattr(libraries, "ROUNDS", 1)
    lines = list(libraries.groups(16))
    assert [line.count for line in lines] == [3] * 6
    assert all(line.flops >= 2 * 4 * 2048 * 64 * 128 for line in lines)
    assert "16 experts, 64 -> 128, weight" in str(lines[-1])


def test_the_command_prints_products_and_steps(monkeypatch, capsys):
    monkeypatch.setattr(libraries, "layers", lambda: [])
    monkeypatch.setattr(libraries, "groups", lambda num: [])
    monkeypatch.setattr(libraries.memory, "settle", lambda: None)
    step = lambda *args, **options: lambda: torch.ones(1)  # noqa: E731
    monkeypatch.setattr(libraries.training, "our_step", step)
    monkeypatch.setattr(libraries.training, "transformers_step", step)
    monkeypatch.setattr(
        libraries, "in_turns", lambda turns, rounds: in_turns(turns, rounds=1)
    )
    libraries.main()
    out = capsys.readouterr().out
    assert f"FP32 products go to: {matmul.library()}" in out
    assert "step of tiny, transformers" in out
