"""The hardware table: names, units and what follows from them."""

import ast
import dataclasses
import json
from pathlib import Path

import pytest

from tiny_lm import hardware
from tiny_lm.hardware import (
    A100,
    B200,
    CHIPS,
    H100,
    H100_MEASURED,
    H200,
    H800,
    MACHINES,
    chip,
    machine,
)

RECORD = json.loads(hardware.RATES.read_text())
RATES = RECORD["rates"]


def test_chips_are_found_by_short_name_in_any_case():
    assert list(CHIPS) == ["a100", "h100", "h800", "h200", "b200"]
    assert chip("h800") is H800
    assert chip("H800") is H800


def test_the_ridge_is_peak_over_bandwidth():
    assert round(H800.ridge_flops_per_byte) == 295
    achieved = RATES["bf16_flops_per_s"] / RATES["copy_bytes_per_s"]
    assert H100_MEASURED.ridge_flops_per_byte == achieved
    assert 240 < achieved < 295


def test_export_control_took_the_links_and_left_the_rates_of_training():
    left = ("bf16_flops_per_s", "fp8_flops_per_s", "memory_bytes_per_s", "memory_bytes")
    assert all(getattr(H800, name) == getattr(H100, name) for name in left)
    assert H800.nvlink_bytes_per_s == 400e9
    assert H100.nvlink_bytes_per_s == 900e9


def test_a_link_achieves_less_than_one_direction_of_its_line_rate():
    assert H800.nvlink_achieved_bytes_per_s < H800.nvlink_bytes_per_s / 2
    assert H800.network_achieved_bytes_per_s < H800.network_bytes_per_s
    ratio = H800.nvlink_achieved_bytes_per_s / H800.network_bytes_per_s
    assert ratio == pytest.approx(3.2)  # deepseek_v3, section 3.2.2


def test_what_was_measured_is_below_the_datasheet():
    assert H100_MEASURED.bf16_flops_per_s < H100.bf16_flops_per_s
    assert H100_MEASURED.copy_bytes_per_s < H100.memory_bytes_per_s
    blockwise = H100_MEASURED.fp8_blockwise_flops_per_s
    assert blockwise < H100_MEASURED.fp8_tensorwise_flops_per_s < H100.fp8_flops_per_s
    assert H100_MEASURED.source.startswith("measured")


def test_fp8_is_twice_as_fast_as_bf16_where_there_is_any():
    assert A100.fp8_flops_per_s is None
    for faster in (H100, H800, H200, B200):
        assert faster.fp8_flops_per_s == 2 * faster.bf16_flops_per_s


def test_every_field_that_is_a_number_names_its_unit():
    kinds = (hardware.Chip, hardware.Measured, hardware.Machine)
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert all(
        name.endswith(("_flops_per_s", "_bytes_per_s", "_bytes", "_s", "_efficiency"))
        for name in names - {"name", "source", "gpus_per_node"}
    )


def test_every_chip_names_its_source_and_cannot_be_changed():
    assert all(each.source for each in CHIPS.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        H800.memory_bytes = 0


def test_hardware_is_a_leaf():
    tree = ast.parse(Path(hardware.__file__).read_text())
    plain = [n for n in ast.walk(tree) if isinstance(n, ast.Import)]
    others = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert [alias.name for node in plain for alias in node.names] == ["json"]
    assert [node.module for node in others] == ["dataclasses", "pathlib"]


def test_an_unknown_chip_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="unknown chip 'h20'; there are: a100, h100"):
        chip("h20")


def test_a_machine_has_the_rates_of_its_chip_and_links_of_one_direction():
    assert list(MACHINES) == list(CHIPS)
    for name, each in MACHINES.items():
        assert each.bf16_flops_per_s == chip(name).bf16_flops_per_s
        assert each.fp8_flops_per_s == chip(name).fp8_flops_per_s
        assert each.memory_bytes_per_s == chip(name).memory_bytes_per_s
        assert each.nvlink_bytes_per_s == chip(name).nvlink_bytes_per_s / 2
        assert each.gpus_per_node == 8
        assert each.source


def test_the_links_of_the_h800_are_those_that_training_achieved():
    h800 = machine("H800")
    assert h800.nvlink_bytes_per_s * h800.nvlink_efficiency == pytest.approx(160e9)
    assert h800.network_bytes_per_s * h800.network_efficiency == pytest.approx(40e9)
    assert machine("h100").nvlink_efficiency == machine("h100").network_efficiency == 1


def test_what_was_measured_says_on_what_with_what_and_when():
    for said in (RECORD["device"], RECORD["torch"], RECORD["date"]):
        assert said in H100_MEASURED.source
    assert RECORD["command"].startswith("python -m tiny_lm.course.bench.hardware")
    assert RECORD["driver"] and "H100" in RECORD["device"]


def test_rates_are_read_from_the_record(tmp_path):
    other = RECORD | {"rates": RATES | {"launch_s": 1e-3}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert hardware.read_measured(tmp_path / "other.json").launch_s == 1e-3


def test_alpha_is_what_was_published_of_this_generation_of_links():
    for name in ("h800", "h100", "h200"):
        each = machine(name)
        assert (each.nvlink_alpha_s, each.network_alpha_s) == (3.33e-6, 3.7e-6)


def test_what_was_not_published_is_absent():
    assert machine("a100").network_bytes_per_s is None
    assert machine("a100").fp8_flops_per_s is None
    for name in ("a100", "b200"):
        assert machine(name).nvlink_alpha_s is machine(name).network_alpha_s is None
    for each in MACHINES.values():
        assert each.launch_s is each.fp32_flops_per_s is None


def test_a_machine_at_measured_rates():
    real = machine("h100").achieving(H100_MEASURED)
    assert real.bf16_flops_per_s * real.bf16_efficiency == pytest.approx(
        RATES["bf16_flops_per_s"]
    )
    assert real.fp8_flops_per_s * real.fp8_efficiency == pytest.approx(
        RATES["fp8_blockwise_flops_per_s"]
    )
    assert real.memory_bytes_per_s * real.memory_efficiency == pytest.approx(
        RATES["copy_bytes_per_s"]
    )
    assert real.launch_s == RATES["launch_s"]
    assert "measured" in real.name and "measured" in real.source


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("gpus_per_node", 0, "gpus_per_node must be ≥ 1, got 0"),
        ("memory_bytes_per_s", 0.0, "memory_bytes_per_s must be positive, got 0"),
        ("network_bytes_per_s", -1.0, "network_bytes_per_s must be positive, got -1"),
        ("launch_s", -1e-6, "launch_s must not be negative"),
        ("network_alpha_s", -1.0, "network_alpha_s must not be negative, got -1"),
        ("fp8_efficiency", 1.5, r"fp8_efficiency must be in \(0, 1\], got 1.5"),
        ("nvlink_efficiency", 0.0, r"nvlink_efficiency must be in \(0, 1\], got 0"),
    ],
)
def test_an_impossible_machine_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(machine("h800"), **{field: value})


def test_a_chip_that_was_not_measured_with_fp8_has_no_measured_fp8_rate():
    with pytest.raises(ValueError, match="A100 .* has no FP8 rate"):
        machine("a100").achieving(H100_MEASURED)


def test_an_unknown_machine_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="unknown machine 'h20'; there are: a100"):
        machine("h20")
