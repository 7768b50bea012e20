"""The bench's own power meter on a real card: what the plant is fed in ``gpu`` mode.

``hil calibrate gpu`` measures with it, too, and then lets it keep what it read.

It is a second reader beside the daemon's probe, with its own NVML session in a thread of its own: an NVML call on
a lost card may hang, and the plant must not hang with it. A reading that is older than ``STALE_S`` is no
reading (None); the bench then reports that its instrument failed instead of flying on an old number.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import msgspec

INTERVAL_S: Final = 0.05
STALE_S: Final = 1.0
CLOSE_S: Final = 2.0
_ABOUT: Final[tuple[tuple[str, str, tuple[int, ...], str | None], ...]] = (
    ("driver", "nvmlSystemGetDriverVersion", (), None),
    ("power limit", "nvmlDeviceGetEnforcedPowerLimit", (), "mW"),
    ("limits allowed", "nvmlDeviceGetPowerManagementLimitConstraints", (), "mW"),
    ("most SM clock", "nvmlDeviceGetMaxClockInfo", (1,), "MHz"),
    ("margin to slowdown", "nvmlDeviceGetMarginTemperature", (), "K"),
)
"""What, function of NVML, its arguments after the handle, unit; None is a function without a handle."""


class CardReading(msgspec.Struct, frozen=True, kw_only=True):
    """One reading: watts, die temperature and the machine time at which it was taken.

    ``energy_j`` is the card's own counter, None where it has none.
    """

    power_w: float
    die_degc: float
    taken_s: float
    energy_j: float | None = None


class NvmlMeter:
    """Reads one card every ``INTERVAL_S`` s; ``module`` is ``pynvml`` or anything with its functions."""

    def __init__(
        self, module: ModuleType, index: int = 0, *, keep: int = 0, before: Callable[[], None] = lambda: None
    ) -> None:
        """Open the card and keep the last ``keep`` readings; raises the module's ``NVMLError`` without a card.

        ``before`` is called before each of them: a card that only this process moves is brought up to date there.
        """
        self._nvml = module
        self._before = before
        module.nvmlInit()
        self._handle = module.nvmlDeviceGetHandleByIndex(index)
        name = module.nvmlDeviceGetName(self._handle)
        self.name = name.decode() if isinstance(name, bytes) else str(name)
        self._reading: CardReading | None = None
        self.history: deque[CardReading] = deque(maxlen=keep)
        """Readings so far, oldest first; whoever iterates copies it first."""
        self._stop = threading.Event()
        self.failures = 0
        self.fault = ""
        self._thread = threading.Thread(target=self._read_on, name="nvml-meter", daemon=True)
        self._thread.start()

    def reading(self, now_s: float) -> CardReading | None:
        """The newest reading, None when there is none younger than ``STALE_S``."""
        reading = self._reading
        return reading if reading is not None and now_s - reading.taken_s <= STALE_S else None

    def energy_j(self) -> float | None:
        """The card's energy counter now, J; None where it has none or does not answer."""
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except (self._nvml.NVMLError, AttributeError):
            return None

    def about(self) -> dict[str, str]:
        """What somebody needs to repeat a measurement, as far as the card tells: limits, clocks, driver."""
        found: dict[str, str] = {}
        for what, function, arguments, unit in _ABOUT:
            try:
                answer: Any = getattr(self._nvml, function)(
                    *((self._handle,) if unit is not None else ()), *arguments
                )
            except (self._nvml.NVMLError, AttributeError, TypeError):
                continue
            values = answer if isinstance(answer, list | tuple) else [answer]
            texts = [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values]
            found[what] = f"{' to '.join(texts)}{f' {unit}' if unit else ''}"
        return found

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
            self._before()
            try:
                power_w = self._power_w()
                die_degc = float(self._nvml.nvmlDeviceGetTemperature(self._handle, self._nvml.NVML_TEMPERATURE_GPU))
            except self._nvml.NVMLError as error:
                self.failures += 1
                self.fault = str(error)
                continue
            self._reading = CardReading(
                power_w=power_w, die_degc=die_degc, taken_s=time.monotonic(), energy_j=self.energy_j()
            )
            if self.history.maxlen:
                self.history.append(self._reading)
