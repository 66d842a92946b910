"""What a kernel and a byte cost on a machine, in whole picoseconds.

Chapter: 05_comm/emulated_time
Source: course

A kernel takes its launch, and then as long as the slower of arithmetic and memory
(the *roofline*): while one works the other waits, and neither adds to the other.
A message takes α, however small it is, and then its bytes at the link's rate.

Whole numbers, rounded up, make a timeline the same on every machine and every Python:
0.1 + 0.2 in floats depends on the order, and with it the order of events that tie.
"""

from typing import NamedTuple

from tiny_lm.hardware import Machine

PS_PER_S = 10**12
LINKS = ("nvlink", "network")  # inside a node, between nodes


class Cost(NamedTuple):
    """A figure of the machine as a whole number."""

    per_s: int

    def of(self, amount: int) -> int:
        """Picoseconds for an amount; one that has begun counts."""
        return -(-amount * PS_PER_S // self.per_s)


class Prices:
    """A machine's figures as whole numbers, looked up once."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._costs: dict[str, Cost] = {}
        self._times: dict[str, int] = {}
        self._kernels: dict[tuple[int, int, str], int] = {}

    def kernel_ps(self, flops: int, num_bytes: int, precision: str) -> int:
        """Launch, then the slower of arithmetic and memory.

        Raises:
            ValueError: a figure that the machine lacks, or an unknown precision.
        """
        key = flops, num_bytes, precision
        if key not in self._kernels:
            work = self._cost(precision, "flops").of(flops) if flops else 0
            memory = self._cost("memory", "bytes").of(num_bytes) if num_bytes else 0
            self._kernels[key] = self._time("launch_s") + max(work, memory)
        return self._kernels[key]

    def link(self, one: int, other: int) -> int:
        """0 where two ranks share a node, so NVLink; 1 where the network joins them."""
        size = self.machine.gpus_per_node
        return int(one // size != other // size)

    def bytes_ps(self, link: int, num_bytes: int) -> int:
        """Time that so many bytes keep a port busy.

        Raises:
            ValueError: the machine lacks the link's rate.
        """
        return self._cost(LINKS[link], "bytes").of(num_bytes) if num_bytes else 0

    def alpha_ps(self, link: int) -> int:
        """Time that a message takes beside its bytes.

        Raises:
            ValueError: the machine lacks the link's α.
        """
        return self._time(f"{LINKS[link]}_alpha_s")

    def _cost(self, what: str, unit: str) -> Cost:
        if what not in self._costs:
            rate = self._figure(f"{what}_{unit}_per_s")
            share = self._figure(f"{what}_efficiency")
            self._costs[what] = Cost(max(1, round(rate * share)))
        return self._costs[what]

    def _time(self, name: str) -> int:
        if name not in self._times:
            self._times[name] = round(self._figure(name) * PS_PER_S)
        return self._times[name]

    def _figure(self, name: str) -> float:
        known = getattr(self.machine, name, None)
        if known is None:
            raise ValueError(
                f"{self.machine.name}: {name} is not known, and this tape needs it; "
                f"set it with dataclasses.replace(machine, {name}=…)"
            )
        return known
