"""The bench's own power meter on a real card: what the plant is fed in ``gpu`` mode.

It is a second reader beside the daemon's probe, with its own NVML session in a thread of its own: an NVML call on
a lost card may hang, and the plant must not hang with it. A reading that is older than ``STALE_S`` is no
reading (None); the bench then reports that its instrument failed instead of flying on an old number.
"""

import threading
import time
from types import ModuleType
from typing import Final

import msgspec

INTERVAL_S: Final = 0.05
STALE_S: Final = 1.0
CLOSE_S: Final = 2.0


class CardReading(msgspec.Struct, frozen=True, kw_only=True):
    """One reading: watts, die temperature and the machine time at which it was taken."""

    power_w: float
    die_degc: float
    taken_s: float


class NvmlMeter:
    """Reads one card every ``INTERVAL_S`` s; ``module`` is ``pynvml`` or anything with its functions."""

    def __init__(self, module: ModuleType, index: int = 0) -> None:
        """Open the card; raises the module's ``NVMLError`` when there is none."""
        self._nvml = module
        module.nvmlInit()
        self._handle = module.nvmlDeviceGetHandleByIndex(index)
        name = module.nvmlDeviceGetName(self._handle)
        self.name = name.decode() if isinstance(name, bytes) else str(name)
        self._reading: CardReading | None = None
        self._stop = threading.Event()
        self.failures = 0
        self.fault = ""
        self._thread = threading.Thread(target=self._read_on, name="nvml-meter", daemon=True)
        self._thread.start()

    def reading(self, now_s: float) -> CardReading | None:
        """The newest reading, None when there is none younger than ``STALE_S``."""
        reading = self._reading
        return reading if reading is not None and now_s - reading.taken_s <= STALE_S else None

    def close(self) -> None:
        """End the session; a reader that hangs in the driver is left behind."""
        self._stop.set()
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self._nvml.nvmlShutdown()

    def _power_w(self) -> float:
        """Instantaneous power where the card offers it; ``nvmlDeviceGetPowerUsage`` averages over 1 s."""
        field = self._nvml.nvmlDeviceGetFieldValues(self._handle, [self._nvml.NVML_FI_DEV_POWER_INSTANT])[0]
        if field.nvmlReturn == self._nvml.NVML_SUCCESS and 0 < field.value.uiVal < 0xFFFFFFFF:
            return float(field.value.uiVal) / 1e3
        return float(self._nvml.nvmlDeviceGetPowerUsage(self._handle)) / 1e3

    def _read_on(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            try:
                power_w = self._power_w()
                die_degc = float(self._nvml.nvmlDeviceGetTemperature(self._handle, self._nvml.NVML_TEMPERATURE_GPU))
            except self._nvml.NVMLError as error:
                self.failures += 1
                self.fault = str(error)
                continue
            self._reading = CardReading(power_w=power_w, die_degc=die_degc, taken_s=time.monotonic())
