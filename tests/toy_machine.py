"""A machine whose times can be worked out by hand: all of them whole picoseconds."""

from tiny_lm.hardware import Machine

# A FLOP takes 1 ps and a byte of memory 2, a byte over NVLink 10 and between nodes 100.
TOY = Machine(
    name="toy",
    source="these tests",
    gpus_per_node=2,
    bf16_flops_per_s=1e12,
    fp8_flops_per_s=2e12,
    memory_bytes_per_s=0.5e12,
    nvlink_bytes_per_s=1e11,
    network_bytes_per_s=1e10,
    launch_s=5e-12,
    nvlink_alpha_s=7e-12,
    network_alpha_s=30e-12,
)
