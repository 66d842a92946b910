"""The hardware table: names, units and what follows from them."""

import ast
import dataclasses
from pathlib import Path

import pytest

from tiny_lm import hardware
from tiny_lm.hardware import A100, B200, CHIPS, H100, H100_MEASURED, H200, H800, chip


def test_chips_are_found_by_short_name_in_any_case():
    assert list(CHIPS) == ["a100", "h100", "h800", "h200", "b200"]
    assert chip("h800") is H800
    assert chip("H800") is H800


def test_the_ridge_is_peak_over_bandwidth():
    assert round(H800.ridge_flops_per_byte) == 295
    assert round(H100_MEASURED.ridge_flops_per_byte) == 262


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
    kinds = (hardware.Chip, hardware.Measured)
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert all(
        name.endswith(("_flops_per_s", "_bytes_per_s", "_bytes", "_s"))
        for name in names - {"name", "source"}
    )


def test_every_chip_names_its_source_and_cannot_be_changed():
    assert all(each.source for each in CHIPS.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        H800.memory_bytes = 0


def test_hardware_is_a_leaf():
    tree = ast.parse(Path(hardware.__file__).read_text())
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert [node.module for node in imports] == ["dataclasses"]


def test_an_unknown_chip_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="unknown chip 'h20'; there are: a100, h100"):
        chip("h20")
