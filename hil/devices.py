"""Where the work runs and what measures its power: a real card, or a processor with a simulated card beside it.

``auto`` takes CUDA when NVML finds a card *and* this torch can use it; the second question is asked in a process of
its own, because the bench itself never loads torch.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from flightsw.link.card import Profile

from .instruments.card_health import CardHealth
from .instruments.card_state import CardFile, CardState
from .instruments.gpu_sim import GpuModel, SimulatedGpu
from .instruments.nvml_meter import NvmlMeter
from .instruments.nvml_sim import NAME as SIMULATED_NAME
from .plant.truth import Truth
from .scenario import DeviceChoice

TORCH_ASK_S: Final = 120.0
MEMORY_OVER_DIE_K: Final = 6.0
IDLE_DUTY: Final = 0.01
CLOCKS_IDLE: Final = 0x1
"""``nvmlClocksEventReasonGpuIdle``: the only reason for which a simulated card slows its clocks."""
_ASK: Final = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 3)"


class DeviceError(ValueError):
    """The wanted device is not there; the text is one line for the operator."""


class Instrument(Protocol):
    """The bench's own view of the card."""

    name: str
    device: Literal["cpu", "cuda"]
    nvml_module: str

    @property
    def health(self) -> CardHealth | None:
        """What ails the card, where it is simulated; nothing can be injected into a real one."""

    def power_w(self, dt_s: float, now_s: float, rail_on: bool) -> float | None:
        """Watts that the plant is fed now; None when the instrument gives no value."""

    def show(self, truth: Truth) -> None:
        """Let the card's own sensors show this truth, where they are simulated."""

    def close(self) -> None:
        """Release it."""


class SimulatedCard:
    """A card that exists only as watts: busy time from the meters, readings through ``nvml_sim``."""

    device: Literal["cpu", "cuda"] = "cpu"
    nvml_module = "hil.instruments.nvml_sim"

    def __init__(self, state_file: Path, meters: list[Path], model: GpuModel | None = None) -> None:
        self.name = SIMULATED_NAME
        self.gpu = SimulatedGpu(meters, model or GpuModel())
        self.health = CardHealth()
        self._file = CardFile(state_file, create=True)

    def power_w(self, dt_s: float, now_s: float, rail_on: bool) -> float | None:
        return self.gpu.step(dt_s, rail_on=rail_on)

    def show(self, truth: Truth) -> None:
        health = self.health
        health.rail(truth.gpu_rail_on)
        sensor = self.gpu.sensor
        self._file.write(
            CardState(
                powered=truth.gpu_rail_on and not health.lost,
                power_w=sensor.instant_w,
                die_degc=truth.gpu_temp_degc,
                memory_degc=truth.gpu_temp_degc + MEMORY_OVER_DIE_K,
                energy_j=sensor.energy_j,
                utilisation_fraction=min(1.0, self.gpu.duty),
                ecc_corrected=health.ecc_corrected,
                ecc_uncorrected=health.ecc_uncorrected,
                throttle_reasons=CLOCKS_IDLE if self.gpu.duty < IDLE_DUTY else 0,
                xids=health.xids,
                xid_count=health.xid_count,
                power_average_w=sensor.average_w,
            )
        )

    def close(self) -> None:
        self._file.close()


def model_of(profile: Profile) -> GpuModel:
    """The simulated card between the ends of this profile."""
    return GpuModel(idle_w=profile.train.idle_w, maximum_w=profile.train.maximum_w)


class RealCard:
    """A card behind NVML. Its watts are measured and fed to the plant; its own temperature only protects it."""

    device: Literal["cpu", "cuda"] = "cuda"
    nvml_module = "pynvml"
    health: CardHealth | None = None

    def __init__(self, meter: NvmlMeter) -> None:
        self.name = meter.name
        self._meter = meter

    def power_w(self, dt_s: float, now_s: float, rail_on: bool) -> float | None:
        reading = self._meter.reading(now_s)
        return None if reading is None else reading.power_w

    def show(self, truth: Truth) -> None:
        """A real card shows itself."""

    def close(self) -> None:
        self._meter.close()


class Choice(msgspec.Struct, frozen=True):
    """What ``choose`` found: a device, and why it is that one."""

    device: Literal["cpu", "cuda"]
    reason: str


def choose(wanted: DeviceChoice) -> Choice:
    """Decide where to compute; raises ``DeviceError`` when CUDA is demanded and cannot be had."""
    if wanted == "cpu":
        return Choice("cpu", "asked for")
    reason = _why_no_cuda()
    if not reason:
        return Choice("cuda", "NVML and torch both see a card")
    if wanted == "cuda":
        raise DeviceError(f"device cuda: {reason}; take --device cpu")
    return Choice("cpu", reason)


def open_card() -> RealCard:
    """The first real card; raises ``DeviceError``."""
    import pynvml

    try:
        return RealCard(NvmlMeter(pynvml))
    except pynvml.NVMLError as error:
        raise DeviceError(f"device cuda: NVML: {error}") from None


def _why_no_cuda() -> str:
    """Empty when CUDA can be used."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            if pynvml.nvmlDeviceGetCount() == 0:
                return "NVML finds no card"
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return f"NVML: {error}"
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TORCH_ASK_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"torch did not answer within {TORCH_ASK_S:.0f} s"
    return "" if asked.returncode == 0 else "NVML finds a card, but this torch cannot use CUDA"
