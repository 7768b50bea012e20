"""The privileged settings behind one protocol: NVML power limit, NVML clock lock, Jetson power mode.

A setting is a whole number in the unit of its interface. ``read`` and ``allowed`` ask and change nothing; they come
first, so that a card that does not offer the setting, or a value outside its range, is refused while everything is
still as it was. ``write`` sets and reads back. ``DEFAULT`` stands for "as the driver has it".

NVML cannot be asked whether clocks are locked, so a lock is taken back to the driver's default, which is also what
a reboot does. Setters need root (NVML) or write access to the mode's files (nvpmodel); a refusal is one line that
says which.
"""

import re
import subprocess
from collections.abc import Sequence
from typing import Final, Protocol

from flightsw.gpu.nvml import Card, NvmlError, Unsupported

DEFAULT: Final = -1
NVPMODEL_S: Final = 20.0
"""A mode change may stop and start clusters; longer is a hang."""
NVPMODEL_MODE_MAX: Final = 31
OUTPUT_CHARACTERS_MAX: Final = 160
_NO_PERMISSION: Final = 4


class SettingError(Exception):
    """A setting is refused, not offered or gone; one line for the operator."""


class Setting(Protocol):
    """One number of the card."""

    name: str
    unit: str

    def read(self) -> int:
        """The value now; ``DEFAULT`` where it cannot be asked. Raises ``SettingError``."""

    def allowed(self) -> tuple[int, int]:
        """Least and most that may be written. Raises ``SettingError``."""

    def write(self, value: int) -> None:
        """Set a value that ``read`` gave or that is allowed. Raises ``SettingError``."""


class PowerLimit:
    """``nvmlDeviceSetPowerManagementLimit``; mW. ``low_w`` and ``high_w`` narrow the card's own range."""

    name = "power_limit"
    unit = "mW"

    def __init__(self, card: Card, low_w: float = 0.0, high_w: float = float("inf")) -> None:
        self._card = card
        self._low_w, self._high_w = low_w, high_w

    def read(self) -> int:
        return _whole(self.name, _asked(self.name, self._card, "nvmlDeviceGetPowerManagementLimit"))

    def allowed(self) -> tuple[int, int]:
        answer = _asked(self.name, self._card, "nvmlDeviceGetPowerManagementLimitConstraints")
        if not isinstance(answer, Sequence) or len(answer) != 2:
            raise SettingError(f"{self.name}: the card's constraints are of an unknown shape: {answer!r}")
        low, high = (_whole(self.name, value) for value in answer)
        narrowed = max(low, round(self._low_w * 1e3)), round(min(high, self._high_w * 1e3))
        if narrowed[0] > narrowed[1]:
            raise SettingError(
                f"{self.name}: the card allows {low / 1e3:g} to {high / 1e3:g} W, the configuration"
                f" {self._low_w:g} to {self._high_w:g} W: they have nothing in common"
            )
        return narrowed

    def write(self, value: int) -> None:
        _set(self.name, self._card, "nvmlDeviceSetPowerManagementLimit", value)
        if (found := self.read()) != value:
            raise SettingError(f"{self.name}: set to {value / 1e3:g} W, but the card has {found / 1e3:g} W")


class ClockLock:
    """``nvmlDeviceSetGpuLockedClocks``: graphics clock at most this many MHz."""

    name = "clock_lock"
    unit = "MHz"

    def __init__(self, card: Card, clock_type: int = 0) -> None:
        self._card = card
        self._clock_type = clock_type

    def read(self) -> int:
        return DEFAULT

    def allowed(self) -> tuple[int, int]:
        highest = _asked(self.name, self._card, "nvmlDeviceGetMaxClockInfo", self._clock_type)
        return 1, _whole(self.name, highest)

    def write(self, value: int) -> None:
        if value == DEFAULT:
            _set(self.name, self._card, "nvmlDeviceResetGpuLockedClocks")
        else:
            _set(self.name, self._card, "nvmlDeviceSetGpuLockedClocks", 0, value)


class Nvpmodel:
    """``nvpmodel -q`` and ``nvpmodel -m MODE`` of a Jetson; the mode's number."""

    name = "nvpmodel"
    unit = "mode"

    def __init__(self, program: str) -> None:
        self._program = program

    def read(self) -> int:
        # The answer ends with the number of the mode on a line of its own.
        numbers = re.findall(r"^\s*(\d+)\s*$", self._run("-q"), re.MULTILINE)
        if not numbers:
            raise SettingError(f"{self.name}: {self._program} -q names no mode")
        return int(numbers[-1])

    def allowed(self) -> tuple[int, int]:
        return 0, NVPMODEL_MODE_MAX

    def write(self, value: int) -> None:
        self._run("-m", str(value))
        if (found := self.read()) != value:
            raise SettingError(f"{self.name}: mode {value} was asked for, the board is in mode {found}")

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self._program, *arguments],
                # A question ("reboot now?") gets no answer, and the mode stays as it was.
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=NVPMODEL_S,
                check=False,
            )
        except OSError as error:
            raise SettingError(f"{self.name}: {self._program} cannot be started: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise SettingError(f"{self.name}: {self._program} did not end within {NVPMODEL_S:g} s") from None
        if done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).split())[:OUTPUT_CHARACTERS_MAX]
            raise SettingError(
                f"{self.name}: {' '.join([self._program, *arguments])} ended with status {done.returncode}: {said}"
            )
        return done.stdout


def _asked(name: str, card: Card, function: str, *arguments: object) -> object:
    try:
        return card.ask(function, *arguments)
    except Unsupported as error:
        raise SettingError(f"{name}: this card or driver does not offer it ({error})") from None
    except NvmlError as error:
        raise SettingError(f"{name}: {error}") from None


def _set(name: str, card: Card, function: str, *arguments: object) -> None:
    try:
        card.ask(function, *arguments)
    except NvmlError as error:
        if getattr(error.__cause__, "value", None) == _NO_PERMISSION:
            raise SettingError(
                f"{name}: no permission; NVML's setters need root or CAP_SYS_ADMIN: give it to this process or take"
                f" {name} out of [actuators]"
            ) from None
        raise SettingError(f"{name}: the card refuses: {error}") from None


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise SettingError(f"{name}: {value!r} is no believable value")
    return value
