"""The model across GPUs: what is split, and what the parts tell each other.

Chapter: 05_comm
Source: deepseek_v3, section 3.2
"""
