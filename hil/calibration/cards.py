"""The card that is measured: a real one behind NVML, or the bench's simulated one beside a processor.

Both are read by the same instrument (``nvml_meter``), so a calibration runs the same way on both. The simulated
card turns the load's real busy time into watts by the ends of the reference curve, and its watts into one heated
node; what a calibration finds on it is what was put in, through the same sensors, and is marked "simulated".
"""

import os
import threading
import time
from pathlib import Path
from typing import Final, Literal, Protocol

from flightsw.link.card import REFERENCE

from ..devices import DeviceError, model_of
from ..instruments import nvml_sim
from ..instruments.card_state import ENVIRONMENT, CardFile, CardState
from ..instruments.gpu_sim import SimulatedGpu
from ..instruments.nvml_meter import NvmlMeter

HISTORY_MAX: Final = 36_000
"""Readings kept: half an hour at 20 Hz."""
STEP_S: Final = 0.01
COOLANT_DEGC: Final = 25.0
MEMORY_OVER_DIE_K: Final = 6.0


class Card(Protocol):
    """A card that can be measured."""

    provenance: Literal["simulated", "measured"]
    meter: NvmlMeter

    def close(self) -> None:
        """Let go of it."""


class RealCard:
    """The first card behind NVML."""

    provenance: Literal["simulated", "measured"] = "measured"

    def __init__(self) -> None:
        """Raises ``DeviceError``."""
        import pynvml

        try:
            self.meter = NvmlMeter(pynvml, keep=HISTORY_MAX)
        except pynvml.NVMLError as error:
            raise DeviceError(f"device cuda: NVML: {error}") from None

    def close(self) -> None:
        self.meter.close()


class SimulatedCard:
    """The bench's card over the load's meter, stepped by a thread of its own, and before each reading.

    A real card counts its energy whoever is waiting for the processor. If only the thread stepped this one, its
    counter would be as old as the thread's last turn: on a busy machine tens of ms, some percent of a short window.
    """

    provenance: Literal["simulated", "measured"] = "simulated"

    def __init__(self, folder: Path, meter: Path) -> None:
        self._gpu = SimulatedGpu([meter], model_of(REFERENCE))
        self._file = CardFile(folder / "card", create=True)
        self._temp_degc = COOLANT_DEGC + REFERENCE.train.idle_w / REFERENCE.conductance_w_k
        self._show()
        os.environ[ENVIRONMENT] = str(folder / "card")
        self._stepped_s = time.monotonic()
        self._stepping = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="simulated card", daemon=True)
        self._thread.start()
        self.meter = NvmlMeter(nvml_sim, keep=HISTORY_MAX, before=self._step)

    def close(self) -> None:
        self.meter.close()
        self._ended.set()
        self._thread.join()
        self._file.close()
        os.environ.pop(ENVIRONMENT, None)

    def _run(self) -> None:
        while not self._ended.wait(STEP_S):
            self._step()

    def _step(self) -> None:
        """Up to now."""
        with self._stepping:
            now_s = time.monotonic()
            dt_s, self._stepped_s = now_s - self._stepped_s, now_s
            if dt_s <= 0.0:
                return
            power_w = self._gpu.step(dt_s, rail_on=True)
            flow_w = REFERENCE.conductance_w_k * (self._temp_degc - COOLANT_DEGC)
            self._temp_degc += (power_w - flow_w) * dt_s / REFERENCE.heat_capacity_j_k
            self._show()

    def _show(self) -> None:
        self._file.write(
            CardState(
                powered=True,
                power_w=self._gpu.power_w,
                die_degc=self._temp_degc,
                memory_degc=self._temp_degc + MEMORY_OVER_DIE_K,
                energy_j=self._gpu.energy_j,
                utilisation_fraction=min(1.0, self._gpu.duty),
            )
        )
