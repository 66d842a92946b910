"""Kinds of attention are compared fairly: equal sizes, equal questions."""

from dataclasses import replace

import pytest
import torch

from tiny_lm import costs, data
from tiny_lm.config import ModelConfig, TrainConfig
from tiny_lm.course.experiments import attentions, captured, recall, spectra, together
from tiny_lm.course.experiments.attentions import CACHED, cached_elements, kinds
from tiny_lm.course.experiments.plan import Run
from tiny_lm.course.experiments.recall import ASK, KEYS, MARK, Haystack, draw
from tiny_lm.course.experiments.records import MLA_NAMES, Store, Text, read
from tiny_lm.gpus import mesh
from tiny_lm.model import LanguageModel
from tiny_lm.step import build_optimizer, train_step
from tiny_lm.train import learning_rate

SMALL = TrainConfig(steps=7, batch_size=4, seq_len=32, warmup_steps=2, eval_every=3)
HAY = Haystack(length=40, needles=3)


def small(label: str, **changes: object) -> Run:
    return Run(label=label, config=kinds(2)[label], training=replace(SMALL, **changes))


@pytest.fixture(scope="module")
def parts() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(97, 123, (4000,), generator=generator, dtype=torch.uint8)
    return text[:3000], text[3000:]


# ---- what is compared


@pytest.mark.parametrize("num_layers", [2, 4])
def test_all_kinds_have_equally_many_parameters(num_layers):
    sizes = [costs.count_parameters(c).total for c in kinds(num_layers).values()]
    assert len(sizes) == 7
    assert max(sizes) / min(sizes) < 1.01


def test_narrowed_kinds_cache_what_mla_caches_and_the_others_what_they_always_do():
    cached = {label: cached_elements(config) for label, config in kinds(2).items()}
    narrow = {label: n for label, n in cached.items() if "equal cache" in label}
    assert set(narrow.values()) == {CACHED} == {cached["mla"]} and len(narrow) == 3
    assert [cached[k] for k in ("mha", "gqa", "mqa")] == [256, 128, 64]


def test_each_kind_gets_its_own_best_rate_whichever_way_is_better():
    found = [
        {"label": "a", "training": {"lr": lr}, "loss": loss}
        for lr, loss in ((1, 3.0), (2, 1.0), (4, 2.0))
    ]
    lower = replace(attentions.TEXT, result="loss")
    assert attentions.best_rates(lower, found) == {"a": 2}
    higher = replace(attentions.RECALL, result="loss")
    assert attentions.best_rates(higher, found) == {"a": 1}


# ---- needles


def test_every_question_has_one_answer_in_the_haystack():
    tokens = draw(HAY, 50, torch.Generator().manual_seed(1))
    hay, questions = tokens[:, : HAY.hay], tokens[:, HAY.hay :].view(50, HAY.needles, 3)
    assert tokens.shape == (50, 40)
    assert (questions[..., 0] == ASK).all()
    for text, asked in zip(hay.tolist(), questions.tolist(), strict=True):
        marks = [place for place, byte in enumerate(text) if byte == MARK]
        needles = {text[m + 1]: text[m + 2] for m in marks}
        assert len(needles) == HAY.needles and all(key in KEYS for key in needles)
        assert all(needles[key] == value for _, key, value in asked)


def test_a_needle_is_asked_for_by_chance_so_that_elimination_does_not_help():
    tokens = draw(Haystack(length=64, needles=8), 200, torch.Generator().manual_seed(2))
    asked = tokens[:, -24:].view(200, 8, 3)[..., 1]
    twice = sum(len(set(row)) < 8 for row in asked.tolist())
    assert twice > 150  # 8 of 8 without a repetition comes once in 400


def test_a_model_that_knows_the_answers_recalls_all_and_a_fresh_one_few():
    class Knowing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(1, 1)

        def forward(self, tokens):
            logits = torch.zeros(*tokens.shape, 256)
            for row, text in enumerate(tokens.tolist()):
                for place, byte in enumerate(text):
                    logits[row, place, text[text.index(byte) + 1]] = 1
            return logits

    assert recall.recalled(Knowing(), HAY, 8, seed=3) == 1.0
    assert recall.recalled(LanguageModel(kinds(2)["mqa"]), HAY, 8, seed=3) < 0.2


@pytest.mark.parametrize(
    "sizes, says",
    [({"needles": 200}, "only 126 keys"), ({"length": 20, "needles": 5}, "do not fit")],
)
def test_a_haystack_that_cannot_be_is_refused(sizes, says):
    with pytest.raises(ValueError, match=says):
        Haystack(**sizes)


# ---- how they are trained


def test_the_captured_loop_trains_as_the_courses_own_step_does(parts):
    run, curves = small("gqa", clip=0.5), {}
    one, other = LanguageModel(run.config), LanguageModel(run.config)
    for _ in captured.train_text(run, one, parts, curves):
        pass
    optimizer = build_optimizer(other, run.training)
    batches = data.Batches(parts[0], 4, 32, run.training.seed)
    for step in range(7):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, run.training)
        train_step(other, optimizer, batches.at(step, 0, 1), mesh.solo(), 0.5)
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert curves["steps"] == [3, 6, 7]
    assert curves["final_val_loss"] == curves["val_loss"][-1]


def test_runs_side_by_side_take_turns_and_all_are_finished():
    said = []

    def count(name, steps):
        for step in range(steps):
            said.append(f"{name}{step}")
            yield

    captured.side_by_side([count("a", 2), count("b", 3), count("c", 1)], at_once=2)
    assert said == ["a0", "b0", "a1", "b1", "b2", "c0"]


@pytest.fixture(scope="module")
def recorded(parts, tmp_path_factory):
    """All experiments of this part, at toy length, and where they were written."""
    folder = tmp_path_factory.mktemp("attention")
    text = Text("letters", 4000, 3000, 1000, "0", {})
    runs = together.Together(Store(folder, text, "fp32"), parts, "cpu", "a commit", 3)
    scale = attentions.Scale.toy()
    results = {r["name"]: r for r in attentions.results(set(MLA_NAMES), scale, runs)}
    return results, runs, scale


def test_every_experiment_gives_its_result(recorded):
    results = recorded[0]
    assert set(results) == set(MLA_NAMES)
    for name in ("mla_text", "mla_recall"):
        labels = [(run["label"], run["seed"]) for run in results[name]["runs"]]
        assert labels == [(label, seed) for label in kinds(2) for seed in (0, 1)]
    assert results["mla_recall"]["corpus"]["name"] == "2 needles in 24 bytes"
    assert results["mla_recall"]["runs"][0]["validation_tokens"] == 8 * 2 * 2


def test_what_is_done_is_not_trained_again(recorded, monkeypatch):
    results, runs, scale = recorded
    monkeypatch.setattr(together, "side_by_side", lambda steps, at_once: list(steps))
    monkeypatch.setattr(together.Together, "_one", lambda self, run, bar: 1 / 0)
    again = attentions.results({"mla_text", "mla_recall"}, scale, runs)
    assert {r["name"]: r["runs"] for r in again}["mla_text"] == results["mla_text"][
        "runs"
    ]


# ---- directions


def test_energy_of_points_on_a_line_lies_in_one_direction():
    line = torch.outer(torch.arange(5.0), torch.tensor([3.0, 4.0]))
    assert spectra.energy(line.double()) == [1.0, 1.0]
    cross = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double()
    assert spectra.energy(cross) == [0.8, 1.0]


def test_with_all_directions_nothing_changes_and_with_one_much_does(parts):
    model = LanguageModel(kinds(2)["mha"])
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4 if weight.dim() > 1 else 1)
    batches = data.EvalBatches(parts[1], 4, 32, 2)
    found = spectra.measure(model, model, batches, batches, (1, 256))
    one, all_of_them = found["val_loss"]
    assert all_of_them == pytest.approx(found["whole_val_loss"], abs=1e-5)
    assert abs(one - found["whole_val_loss"]) > 1e-3
    assert found["tokens"] == 2 * 4 * 32
    # A state of 128 numbers cannot make more than 128 directions.
    assert all(layer[127] > 1 - 1e-5 for layer in found["trained"])
    assert found["noise"][127] < 0.9


# ---- what stands in the book


@pytest.mark.parametrize("name", MLA_NAMES)
def test_the_recorded_experiment_is_the_one_that_the_code_describes(name):
    record = read(name)
    assert len(record["commit"]) == 40 and record["device"].startswith("NVIDIA")
    if name == "mla_rank":
        assert record["ranks"] == list(attentions.RANKS)
        return
    question = attentions.TEXT if "text" in name else attentions.RECALL
    configs = kinds(question.num_layers)
    for run in record["runs"]:
        assert ModelConfig.from_dict(run["config"]) == configs[run["label"]]
        assert run["training"]["steps"] == question.training.steps
    seeds = {run["seed"] for run in record["runs"]}
    assert seeds == ({0} if "rate" in name else set(attentions.SEEDS))
