"""Emulated GPUs: processes and wires, and nothing about models.

Chapter: 05_comm
Source: torch_distributed
"""
