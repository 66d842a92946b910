"""The cost ladder's steps, recorded on four emulated GPUs: their tapes and prices."""

from contextlib import nullcontext
from itertools import product
from pathlib import Path

import pytest
import torch

from tiny_lm import data, ladder
from tiny_lm.config import tiny
from tiny_lm.course.experiments import ladder_plan, ladder_prices
from tiny_lm.course.experiments.corpus import Sources
from tiny_lm.course.experiments.ladder_plan import Scale
from tiny_lm.course.experiments.ladder_prices import trained_weights
from tiny_lm.course.experiments.ladder_runs import results
from tiny_lm.course.experiments.pool import Pool
from tiny_lm.course.experiments.records import LADDER_NAMES, Store, Text
from tiny_lm.course.labs import rungs
from tiny_lm.data import Corpus, Document
from tiny_lm.gpus.launch import Cluster
from tiny_lm.model import LanguageModel
from tiny_lm.moe import LocalDispatcher
from tiny_lm.replay.specs import machines
from tiny_lm.replay.tape import Collective, Kernel
from tiny_lm.runs import save_weights

TOY = Scale.toy()


# --- recorded ---


@pytest.fixture(scope="module")
def gpus():
    with Cluster(ladder.NUM_RANKS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def recorded(gpus):
    wanted = ((), ("moe",), ("moe", "fp8"), ("moe", "overlap"))
    return {
        some: ladder.record(ladder.combination(some), "overlap" in some, gpus=gpus)
        for some in wanted
    }


def test_a_dense_step_sends_gradients_alone_and_a_mixture_sends_rows_in_bf16(recorded):
    dense, sparse, eight = (
        ladder.sent_bytes(recorded[some]) for some in ((), ("moe",), ("moe", "fp8"))
    )
    assert dense["passes"] == 0 < dense["once"]
    rows = [
        sum(r.sent_bytes(tape.rank) for tape in recorded[some] for r in tape.records
            if isinstance(r, Collective) and r.name.endswith("all_to_all"))
        for some in (("moe",), ("moe", "fp8"))
    ]  # fmt: skip
    assert 0 < rows[0] <= sparse["passes"]
    d = tiny().d_model
    # Out and home, each 2 D; in FP8 out in D codes and a scale of 4 for each 32.
    ratio = (d + 4 * d / 32 + 2 * d) / (4 * d)
    assert rows[1] / rows[0] == pytest.approx(ratio, rel=0.02)  # routing differs
    assert eight["once"] == sparse["once"]


def test_fp8_and_turns_make_a_token_cheaper_and_experts_dearer(recorded):
    tokens = ladder.SEQUENCES * ladder.SEQ_LEN
    us = {
        some: ladder.price(tapes, tokens * (2 if "overlap" in some else 1)).pass_us
        for some, tapes in recorded.items()
    }
    assert us[()] < us["moe", "overlap"] < us["moe",]
    assert us["moe", "fp8"] < us["moe",]


def test_the_price_hangs_on_the_machine_and_on_the_hops(recorded):
    tokens = ladder.SEQUENCES * ladder.SEQ_LEN
    tapes = recorded["moe",]
    here, there, series = (
        ladder.price(tapes, tokens, **given).pass_us
        for given in ({}, {"machine": machines()["h800"]}, {"hops": "series"})
    )
    assert there < here / 10 and series > here


def test_what_two_turns_record_is_a_batch_of_two_micro_batches(recorded):
    def products(some):
        kernels = (r for r in recorded[some][0].records if isinstance(r, Kernel))
        return sum(k.flops for k in kernels if k.name.startswith("blocks.0"))

    assert products(("moe", "overlap")) == 2 * products(("moe",))


def test_a_step_is_recorded_from_given_weights_and_on_given_text(gpus, tmp_path):
    config = ladder.combination(("moe",))
    state = LanguageModel(config, seed=0).state_dict()
    for name in state:
        if name.endswith("router.bias"):  # everything to the experts of rank 0
            state[name] = torch.arange(16.0).lt(4) * 10.0
    path = tmp_path / "weights.safetensors"
    save_weights(path, state)
    text = torch.zeros(2, 16, 33, dtype=torch.int64)
    tapes = ladder.record(config, tokens=text, weights=path, gpus=gpus)
    received = [0] * 4
    for call in (r for tape in tapes for r in tape.records):
        if isinstance(call, Collective) and call.name.endswith("ffn all_to_all"):
            received = [a + b for a, b in zip(received, call.num_bytes, strict=True)]
    assert received[0] > 0.4 * sum(received)


def test_each_rank_loads_its_own_experts_and_all_of_the_rest():
    config = ladder.combination(("moe",))
    whole = LanguageModel(config, seed=1).state_dict()
    dispatcher = LocalDispatcher(config.moe.num_experts)
    dispatcher.local_experts = range(4, 8)
    model = LanguageModel(config, dispatcher, seed=0)
    ladder._load_share(model, whole)
    for name, x in model.state_dict().items():
        wanted = whole[name][4:8] if ".experts." in name else whole[name]
        assert torch.equal(x, wanted), name


def test_a_dense_model_has_nothing_to_overlap():
    with pytest.raises(ValueError, match="nothing to hide"):
        ladder.record(ladder.combination(("fp8",)), overlap=True)


# --- the capstone's ladder ---


def test_a_rung_s_price_is_that_of_the_recorded_ladder(gpus):
    ours = rungs.price(("moe", "fp8", "overlap"), gpus)
    tapes = ladder.record(ladder.combination(("moe", "fp8")), True, gpus=gpus)
    theirs = ladder.price(tapes, 2 * 2048)
    assert ours.token_us == pytest.approx(theirs.per_token_us(120), rel=0.02)
    assert 0 < ours.parts_us[1] < ours.parts_us[0]
    sent = ladder.sent_bytes(tapes)
    per_token = sent["passes"] / 4096 + sent["once"] / (120 * 2048)
    assert ours.wire_bytes == pytest.approx(per_token, rel=0.05)


# --- all of it, at toy length ---


@pytest.fixture(scope="module")
def ladder_records(gpus, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("ladder")
    texts = (f"def word_{n}():\n    return {n}  # word\n" * 19 for n in range(80))
    documents = (Document(f"{n}.py", text.encode()) for n, text in enumerate(texts))
    sources = Sources(Corpus("made up", tuple(documents)), {"made_up": "1"})
    parts = data.split(sources.corpus, min_bytes=129)
    store = Store(folder, Text.of(sources, *map(len, parts)), "fp32")
    pool = Pool(store, parts, "cpu", "a commit", progress=False)
    plain, eight = (
        {name: some[name] for name in names}
        for some, names in (
            (ladder_plan.plain_arms(), ("dense", "moe")),
            (ladder_plan.fp8_arms(), ("fp8",)),
        )
    )
    warm = nullcontext(gpus)
    with pytest.MonkeyPatch.context() as patch:
        for module in (ladder_plan, ladder_prices):
            patch.setattr(module, "plain_arms", lambda: plain)
            patch.setattr(module, "fp8_arms", lambda: eight)
        patch.setattr(ladder_prices, "Cluster", {ladder.NUM_RANKS: warm}.get)
        patch.setattr(ladder_prices, "v3_steps", dict)
        patch.setattr(ladder, "SEQUENCES", 8)
        patch.setattr(ladder, "SEQ_LEN", 32)
        patch.setattr(ladder_prices, "SLOWER", (1.0,))
        patch.setattr(ladder_prices, "WAYS", {"": 1, " overlap": 2})
        patch.setattr(ladder, "subsets", lambda: [(), ("moe", "overlap")])
        found = list(results({"cost_ladder"}, TOY, pool))
    return folder, {result["name"]: result for result in found}


def test_the_ladder_brings_all_its_records(ladder_records):
    folder, found = ladder_records
    assert tuple(found) == LADDER_NAMES
    assert found["cost_ladder_rates"]["missing"] == []
    assert len(found["cost_ladder_lengths"]["runs"]) == 2 * 2 * 2
    assert len(found["cost_ladder_fp8"]["runs"]) == 2
    assert set(found["cost_ladder"]["cost"]) == {"", "moe overlap"}
    for run in found["cost_ladder_lengths"]["runs"]:
        assert run["steps"] == [run["training"]["steps"]]


def test_prices_are_there_for_every_step_and_both_ends(ladder_records):
    _, found = ladder_records
    steps = found["cost_ladder_prices"]["prices"]
    ways = ("", " overlap")
    assert set(steps) == {"dense", "fp8"} | {"moe" + way for way in ways}
    for name, routings in steps.items():
        assert set(routings) == ({"trained", "fresh"} if "moe" in name else {"trained"})
        for links, by_hops in product(routings.values(), ("pipelined", "series")):
            assert all(us > 0 for us in links["1"][by_hops])
    at_once, in_turn = (steps["moe" + way]["trained"]["1"] for way in ways[:2])
    assert in_turn["pipelined"][0] < at_once["pipelined"][0] < at_once["series"][0]


def test_without_the_weights_of_a_mixture_nothing_is_priced(ladder_records, tmp_path):
    folder, _ = ladder_records
    store = Store(tmp_path, Text("made up", 0, 0, 0, "another", {}), "fp32")
    with pytest.raises(ValueError, match="no record"):
        trained_weights(TOY, store)
    assert any(path.suffix == ".safetensors" for path in folder.iterdir())
