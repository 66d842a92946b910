"""Emulated GPUs: wires and clocks, and nothing about models.

Chapter: 05_comm
Source: torch_distributed
"""
