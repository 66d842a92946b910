"""Emulated GPUs: processes and wires, and nothing about models.

Chapter: 05_comm/emulated_gpus
Source: torch_distributed
"""
