"""The card of a flight in virtual time, as its probe would tell of it: readings, ECC counts, XID reports, silence.

``CARD_FAULTS`` are its faults with their parameters. A card that has fallen off the bus (XID 79) gives no readings
until its rail is cycled, but its last words are told, as the daemon's probe tells them. With the rail off there is
no card to ask.
"""

from collections.abc import Mapping
from math import nan
from typing import Final

from flightsw.core.inputs import GpuSample

from .instruments.card_health import XID_MAX, CardHealth
from .plant.disturbances import Parameter
from .plant.truth import Truth

GPU_ECC: Final = "gpu_ecc"
GPU_XID: Final = "gpu_xid"
PROBE_SILENT: Final = "probe_silent"
CARD_FAULTS: Final[dict[str, tuple[Parameter, ...]]] = {
    GPU_ECC: (Parameter("count", 1, 1_000_000), Parameter("corrected", 0, 1)),
    GPU_XID: (Parameter("xid", 1, XID_MAX),),
    PROBE_SILENT: (),
}
"""Fault by name; all but "corrected" must be given, as whole numbers."""


def check_card_fault(name: str, parameters: Mapping[str, float | str]) -> None:
    """Raises ``ValueError`` in one line for a parameter that is missing, unknown or out of its range."""
    known = {parameter.name: parameter for parameter in CARD_FAULTS[name]}
    for key, value in parameters.items():
        if key not in known:
            raise ValueError(f"fault {name}: {key}: unknown parameter; known are {', '.join(known) or 'none'}")
        low, high = known[key].low, known[key].high
        if isinstance(value, str):
            raise ValueError(f"fault {name}: {key} = {value!r}: must be a whole number from {low:g} to {high:g}")
        if not low <= value <= high or value != int(value):
            raise ValueError(f"fault {name}: {key} = {value:g}: must be a whole number from {low:g} to {high:g}")
    for key in known:
        if key not in parameters and key != "corrected":
            raise ValueError(f"fault {name}: {key} is missing")


class InprocCard:
    """A card and its probe."""

    def __init__(self) -> None:
        self.health = CardHealth()
        self.silent = False
        self._sequence = 0

    def inject(self, name: str, parameters: Mapping[str, float | str]) -> None:
        """Begin a fault whose parameters have been checked."""
        match name:
            case "gpu_ecc":
                corrected = bool(parameters.get("corrected"))
                self.health.ecc("corrected" if corrected else "uncorrected", int(parameters["count"]))
            case "gpu_xid":
                self.health.xid(int(parameters["xid"]))
            case _:
                self.silent = True

    def clear(self, name: str) -> None:
        """End a fault; counts and reports are instants and stay."""
        if name == PROBE_SILENT:
            self.silent = False

    def sample(self, truth: Truth, energy_j: float, busy_fraction: float) -> GpuSample | None:
        """What the probe tells now; None when it is silent or there is no card to ask."""
        health = self.health
        health.rail(truth.gpu_rail_on)
        if self.silent or not truth.gpu_rail_on:
            return None
        self._sequence += 1
        lost = health.lost
        return GpuSample(
            sequence=self._sequence,
            source="simulated",
            power_w=nan if lost else truth.gpu_rail_power_w,
            die_degc=nan if lost else truth.gpu_temp_degc,
            energy_j=nan if lost else energy_j,
            utilisation_fraction=nan if lost else busy_fraction,
            ecc_corrected=None if lost else health.ecc_corrected,
            ecc_uncorrected=None if lost else health.ecc_uncorrected,
            throttle_reasons=None if lost else 0,
            xids=health.xids,
            xid_count=health.xid_count,
            unsupported=("memory_degc",),
        )
