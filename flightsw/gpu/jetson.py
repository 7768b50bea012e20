"""Reads a Jetson's power, temperature and load from sysfs, where its NVML offers little or nothing.

Three trees under one root (``/sys`` in flight; tests build their own):

* Power monitors on I2C. Mainline kernels (JetPack 5 and later) give ``bus/i2c/devices/*/hwmon/hwmon*/`` with
  ``inN_label``, ``inN_input`` (mV), ``currN_input`` (mA) for the INA3221, and ``power1_input`` (µW) for the one
  channel of the INA238 (Thor). JetPack 4 gives ``iio:device*/rail_name_N`` (from 0) and ``in_powerN_input`` (mW).
  A rail named NC is not connected; INA3221 channel 7 is a sum of shunt voltages, no rail.
* ``class/thermal/thermal_zone*`` with ``type`` and ``temp`` (m°C). A zone whose sensor is absent or power-gated
  answers −256 °C or an error (EAGAIN): no value, never a temperature.
* ``class/devfreq/*/device/load``, the GPU's load in tenths of a percent.

**Which rail is the GPU's?** Boards differ in what shares a rail, so ``GPU_RAILS`` is a list from the narrowest to
the whole module. The first that a board has is what ``power_w`` means there, for good; rails are never added up,
because on some boards they contain each other. Which sensors exist is looked up when the reader opens, so a
sensor that falls silent later is a failed reading (NaN), not an unsupported one.
"""

from math import nan
from pathlib import Path
from typing import Any, Final

import msgspec

from flightsw.gpu.protocol import Sample
from flightsw.link.power_reading import PowerReading

SYSFS: Final = Path("/sys")

# Narrowest first: GPU alone, GPU with its neighbours on the rail, then the module's or the carrier's input.
GPU_RAILS: Final = (
    "GPU",
    "VDD_GPU",
    "POM_5V_GPU",
    "VDD_SYS_GPU",
    "VDD_GPU_SOC",
    "VDD_CPU_GPU_CV",
    "VDD_IN",
    "POM_5V_IN",
    "5V_IN",
    "VIN_SYS_5V0",
    "VIN",
)
GPU_ZONES: Final = ("gpu-thermal", "GPU-therm", "GPU-thermal", "gpu-therm")
MEMORY_ZONES: Final = ("mem-thermal", "MEM-therm", "memory-thermal")
GPU_NODES: Final = frozenset({"gpu", "gp10b", "gv11b", "ga10b", "gb10b", "gm20b"})
MONITORS: Final = ("ina3221", "ina3221x", "ina238", "ina237")

POWER_MAX_W: Final = 500.0
TEMPERATURE_MIN_DEGC: Final = -80.0
TEMPERATURE_MAX_DEGC: Final = 200.0
FILE_BYTES_MAX: Final = 256

_UNREADABLE: Final = (
    "energy_j",
    "ecc_corrected",
    "ecc_uncorrected",
    "throttle_reasons",
    "power_average_w",
    "power_limit_w",
    "power_limit_enforced_w",
    "slowdown_margin_k",
    "xid",
)


class Source(msgspec.Struct, frozen=True):
    """Files whose product, times ``factor``, is the quantity; a value outside ``low`` to ``high`` is none."""

    files: tuple[Path, ...]
    factor: float
    low: float
    high: float

    def value(self) -> float:
        """The quantity now; NaN when a file cannot be read or the value is not believable."""
        product = self.factor
        for file in self.files:
            try:
                product *= float(_text(file).split()[0])
            except (OSError, ValueError, IndexError):
                return nan
        return product if self.low <= product <= self.high else nan


class JetsonReader:
    """The board's sensors, found once, read for ever."""

    source: Final = "jetson"

    def __init__(self, root: Path = SYSFS) -> None:
        self.fault = ""
        """Why nothing can be read; empty while something can."""
        rails = _rails(root)
        self.rail: str = next((name for name in GPU_RAILS if name in rails), "")
        """Name of the rail that ``power_w`` is of; empty when the board has none that is known."""
        zones = _zones(root)
        found: dict[str, Source | None] = {
            "power_w": rails.get(self.rail),
            "die_degc": next((zones[name] for name in GPU_ZONES if name in zones), None),
            "memory_degc": next((zones[name] for name in MEMORY_ZONES if name in zones), None),
            "utilisation_fraction": _load(root),
        }
        self._sources = {name: source for name, source in found.items() if source is not None}
        self._unsupported = (*(name for name, source in found.items() if source is None), *_UNREADABLE)

    @property
    def present(self) -> bool:
        """Whether this machine is a Jetson, as far as its sensors tell: a GPU's rail or a GPU's own load."""
        return "power_w" in self._sources or "utilisation_fraction" in self._sources

    def read(self, sequence: int, now_s: float) -> Sample:
        """One sample; ``now_s`` is not needed, sysfs keeps no session."""
        values: dict[str, Any] = {name: source.value() for name, source in self._sources.items()}
        failed = bool(values) and all(value != value for value in values.values())
        self.fault = "no sensor can be read" if failed else ""
        power_w = values.get("power_w", nan)
        readings = (PowerReading("rail", power_w, nan, nan),) if power_w == power_w else ()
        return Sample(
            sequence=sequence, source=self.source, unsupported=self._unsupported, readings=readings, **values
        )

    def close(self) -> None:
        """Nothing is held open."""


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(FILE_BYTES_MAX).decode("ascii", errors="replace").strip("\0 \n")


def _label(file: Path) -> str:
    """Content of a label file; empty when it cannot be read."""
    try:
        return _text(file)
    except OSError:
        return ""


def _rails(root: Path) -> dict[str, Source]:
    rails: dict[str, Source] = {}
    for device in sorted((root / "bus/i2c/devices").glob("*")):
        if _label(device / "name") not in MONITORS:
            continue
        for hwmon in sorted(device.glob("hwmon/hwmon*")):
            for label in sorted(hwmon.glob("in[1-3]_label")):
                number = label.name[2]
                files = (hwmon / f"in{number}_input", hwmon / f"curr{number}_input")
                rails.setdefault(_label(label), Source(files, 1e-6, 0.0, POWER_MAX_W))
            if (hwmon / "power1_input").is_file():
                name = _label(hwmon / "power1_label") or "VIN"
                rails.setdefault(name, Source((hwmon / "power1_input",), 1e-6, 0.0, POWER_MAX_W))
        for label in sorted(device.glob("iio:device*/rail_name_*")):
            file = label.with_name(f"in_power{label.name.removeprefix('rail_name_')}_input")
            rails.setdefault(_label(label), Source((file,), 1e-3, 0.0, POWER_MAX_W))
    return rails


def _zones(root: Path) -> dict[str, Source]:
    return {
        _label(zone / "type"): Source((zone / "temp",), 1e-3, TEMPERATURE_MIN_DEGC, TEMPERATURE_MAX_DEGC)
        for zone in sorted((root / "class/thermal").glob("thermal_zone*"))
    }


def _load(root: Path) -> Source | None:
    for node in sorted((root / "class/devfreq").glob("*")):
        name = _label(node / "device/of_node/name") or node.name.rpartition(".")[2]
        if name in GPU_NODES and (node / "device/load").is_file():
            return Source((node / "device/load",), 1e-3, 0.0, 1.0)
    return None
