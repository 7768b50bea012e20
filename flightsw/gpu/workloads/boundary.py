"""What a training step begins with besides weights: random states and counters, each kept three ways.

A generator's state is a few kilobytes, and a wrong bit in it changes every later step without any trace in the
numbers. So the states at a boundary are held in two copies and under a digest (xxh3-128); any one of the three
may be hit and the other two say what it was. The live generators are compared with what they were left as
whenever work goes on, and a step that is run again starts from the good copy.
"""

from collections.abc import Mapping

import torch
import xxhash
from torch import Tensor

from flightsw.gpu.checkpoint.format import tensor_bytes
from flightsw.gpu.integrity.finding import Finding, Report


class Lost(Exception):
    """Two of the three were hit: nobody can say what the boundary was."""


class Boundary:
    """Small host tensors by name, as they were at the last boundary."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._copies: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        self._digests: dict[str, str] = {}

    def take(self, states: Mapping[str, Tensor]) -> None:
        """Keep these. The caller says that they are good."""
        self._copies = tuple({name: state.clone() for name, state in states.items()} for _ in range(2))  # type: ignore[assignment]
        self._digests = {name: fingerprint(state) for name, state in self._copies[0].items()}

    def states(self) -> dict[str, Tensor]:
        """Good ones, for reading: what one copy has lost is put right from the rest. Raises ``Lost``."""
        for name, digest in self._digests.items():
            one, other = (copy[name] for copy in self._copies)
            found = fingerprint(one), fingerprint(other)
            if found == (digest, digest):
                continue
            if digest not in found:
                if found[0] != found[1]:
                    raise Lost(f"{name}: both copies are damaged")
                self._digests[name] = found[0]
            elif found[0] == digest:
                other.copy_(one)
            else:
                one.copy_(other)
            self._report(Finding(detector="digest", outcome="repaired", where=name, detail="from its other copy"))
        return self._copies[0]

    def differing(self, states: Mapping[str, Tensor]) -> list[str]:
        """Names of those among ``states`` that are not as they were at the boundary. Raises ``Lost``."""
        good = self.states()
        return [name for name, state in states.items() if not torch.equal(state, good[name])]


def fingerprint(state: Tensor) -> str:
    """xxh3-128 of a host tensor's bytes."""
    return xxhash.xxh3_128_hexdigest(tensor_bytes(state.contiguous()))
