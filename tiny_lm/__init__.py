"""A small language model that trains the way DeepSeek-V3 does, on emulated GPUs."""

__version__ = "0.1.0"
