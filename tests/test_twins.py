"""The twin for `tiny`: a layer's shares as in V3, dispatch as long as compute."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from tiny_lm import twins
from tiny_lm.config import preset
from tiny_lm.gpus.launch import Cluster
from tiny_lm.hardware import H100_MEASURED, machine
from tiny_lm.replay import specs
from tiny_lm.replay.prices import Prices
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Kernel

H800 = machine("h800").achieving(H100_MEASURED)
LAYERS = [1, 2, 3]


@pytest.fixture(scope="module")
def gpus():
    with Cluster(twins.NUM_RANKS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def tapes(gpus):
    return twins.record_tapes(preset("tiny"), gpus=gpus)


@pytest.fixture(scope="module")
def narrow(gpus):
    return twins.record_tapes(twins.narrow_v3(), gpus=gpus)


@pytest.fixture(scope="module")
def real(narrow):
    return twins.v3_layer_work(narrow, H800)


@pytest.fixture(scope="module")
def twin(tapes, real):
    return twins.derive_twin(tapes, LAYERS, real, H800, gpus_per_node=2)


def in_layers(name: str) -> bool:
    return name.startswith(tuple(f"blocks.{layer}" for layer in LAYERS))


def test_a_layer_of_v3_has_the_flops_of_the_published_count(real):
    # facts: 187.1M parameters of attention and nine experts of 44.04M, all in FP8.
    fp8 = 6 * (187.1e6 + 9 * 44.04e6) * 4096
    bf16 = 6 * (256 * 7168 + 128 * 320 * 2048) * 4096
    measured = H100_MEASURED
    ratio = measured.fp8_blockwise_flops_per_s / measured.bf16_flops_per_s
    weighted = fp8 + bf16 * ratio
    assert real.flops == pytest.approx(weighted, rel=0.001)


def test_memory_traffic_grows_with_the_width_and_launches_do_not(real, gpus):
    tapes = twins.record_tapes(twins.narrow_v3(8), gpus=gpus)
    wider = twins.v3_layer_work(tapes, H800, by=8)
    assert wider.memory_bytes == pytest.approx(real.memory_bytes, rel=0.06)
    assert wider.launches == real.launches
    assert wider.messages == real.messages


def test_every_kind_takes_as_long_as_in_v3(tapes, real, twin):
    ours = twins.compute_s(twins.layer_work(tapes, LAYERS, twin), twin)
    assert ours == pytest.approx(twins.compute_s(real, H800))


def test_on_the_twin_a_layers_shares_are_those_of_v3(tapes, real, twin):
    """By the prices of replay, kernel by kernel: products do not wait for memory."""
    prices, found = Prices(twin), Counter()
    for kernel in (r for tape in tapes for r in tape.records if type(r) is Kernel):
        if in_layers(kernel.name) and "round_weight" not in kernel.name:
            launch = round(twin.launch_s * 1e12)
            work = prices.kernel_ps(kernel.flops, kernel.num_bytes, kernel.precision)
            found["products" if kernel.flops else "memory"] += work - launch
            found["launches"] += launch
    shares = {kind: time / found.total() for kind, time in found.items()}
    v3 = twins.compute_s(real, H800)
    assert shares == pytest.approx(
        {kind: s / sum(v3.values()) for kind, s in v3.items()}, abs=0.02
    )


def test_on_the_twin_dispatch_takes_as_long_as_compute(tapes, twin):
    timeline = replay(tapes, twin)
    seconds: Counter[str] = Counter()
    for span in timeline.spans:
        if in_layers(span.name) and "round_weight" not in span.name:
            seconds[span.kind] += span.end_ps - span.start_ps
    assert seconds["comm"] / seconds["kernel"] == pytest.approx(1.0, abs=0.02)
    assert timeline.machine == f"scaled twin of {H800.name}"
    assert replay(tapes, twin) == timeline


def test_on_an_h800_the_tiny_step_is_all_launches_and_latency(tapes):
    h800 = replace(H800, fp32_flops_per_s=H800.bf16_flops_per_s)
    timeline = replay(tapes, h800)
    num_kernels = sum(type(record) is Kernel for record in tapes[0].records)
    launches_ps = num_kernels * H800.launch_s * 1e12
    assert timeline.summary()[0].compute_ps == pytest.approx(launches_ps, rel=0.05)


@pytest.mark.parametrize("gpus_per_node", [1, 4])
def test_so_it_does_with_other_nodes(tapes, real, gpus_per_node):
    twin = twins.derive_twin(tapes, LAYERS, real, H800, gpus_per_node)
    assert twin.gpus_per_node == gpus_per_node
    seconds = sum(twins.compute_s(real, H800).values())
    assert twins.exchange_s(tapes, LAYERS, twin) == pytest.approx(seconds, rel=0.01)


def test_what_is_kept_of_the_twin_is_what_is_derived(tapes, narrow):
    """The last digits differ between processors, as the routing does."""
    kept = json.loads(specs.TWIN.read_text(encoding="utf-8"))
    wanted = twins.derive_kept(tapes, narrow)
    by = wanted.pop("factors")
    say = "run `python -m tiny_lm.twins`: the work of a step, or a rate, has changed"
    assert kept.pop("factors") == pytest.approx(by, rel=0.02), say
    assert kept == wanted, say


def test_tapes_are_of_the_ranks_and_the_batch_asked_for():
    few = twins.record_tapes(preset("tiny"), num_ranks=2, sequences=2, seq_len=8)
    assert [tape.rank for tape in few] == [0, 1]
    head = [r for r in few[0].records if r[0] == "head mm"]
    assert head[0].flops == 2 * 1 * 8 * 128 * 256
