"""Which processor this is: its maker, its family, and how wide its vectors are.

Chapter: 06_together/full_model
Source: course
"""

import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch


@dataclass(frozen=True)
class Processor:
    """What decides how fast a library's products are.

    Args:
        maker: "AuthenticAMD", "GenuineIntel" …; "" where the system does not tell.
        family: the maker's number of a generation; 0 where the system does not tell.
        vectors: the widest that PyTorch uses here: "AVX512", "AVX2", "DEFAULT" …
        name: for readers.
    """

    maker: str
    family: int
    vectors: str
    name: str = ""

    def __str__(self) -> str:
        maker = f"{self.maker} family {self.family}, " if self.maker else ""
        return f"{self.name or platform.machine()} ({maker}{self.vectors})"


# As Linux and as Windows tell it.
_LINUX = {
    "maker": r"^vendor_id\s*: (.+)$",
    "family": r"^cpu family\s*: (\d+)$",
    "name": r"^model name\s*: (.+)$",
}
_WINDOWS = {"maker": r", (\w+)$", "family": r" Family (\d+) ", "name": r"^(\w+) Family"}


def parse(text: str, vectors: str) -> Processor:
    """A processor from what its system says of it.

    Args:
        text: Linux's /proc/cpuinfo, or what `platform.processor` gives on Windows.
    """
    patterns = _LINUX if "vendor_id" in text else _WINDOWS
    found = {key: re.search(p, text, re.MULTILINE) for key, p in patterns.items()}
    maker, family, name = (one[1].strip() if one else "" for one in found.values())
    return Processor(maker, int(family or 0), vectors, name)


@cache
def this_processor() -> Processor:
    """The processor that this process runs on."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        text = platform.processor()
    return parse(text, torch.backends.cpu.get_cpu_capability())
