"""The table of actuators: what can change the GPU's power here, at what price, and what is put back.

``flightd --actuators`` prints it with what is available on this machine and why the rest is not. Looking changes
nothing: only questions are asked.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from typing import Final

import msgspec

from flightsw.gpu.actuators import partition
from flightsw.gpu.actuators.settings import ClockLock, PowerLimit, SettingError
from flightsw.gpu.nvml import Card, NvmlError
from flightsw.gpu.protocol import SetterSpec

OFF: Final = "not switched on in [actuators]"


class Actuator(msgspec.Struct, frozen=True):
    """One row. ``check`` gives an empty text when it is available, else why not."""

    name: str
    mechanism: str
    privilege: str
    latency: str
    range: str
    puts_back: str
    check: Callable[[SetterSpec], str]


def _always(spec: SetterSpec) -> str:
    return ""


def _partition(spec: SetterSpec) -> str:
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    import torch

    return partition.available(torch)


def _power_limit(spec: SetterSpec) -> str:
    return _nvml(spec, power=True) or ("" if spec.power_limit_w > 0.0 else OFF)


def _clock_lock(spec: SetterSpec) -> str:
    return _nvml(spec, power=False) or ("" if spec.clock_lock_mhz > 0 else OFF)


def _nvml(spec: SetterSpec, *, power: bool) -> str:
    """Asks for range and value, sets nothing."""
    try:
        card = Card(spec.nvml_module, spec.device_index)
    except NvmlError as error:
        return str(error)
    try:
        setting = PowerLimit(card) if power else ClockLock(card)
        setting.allowed()
        setting.read()
    except SettingError as error:
        return str(error)
    finally:
        card.close()
    return "" if os.geteuid() == 0 else "needs root or CAP_SYS_ADMIN, this is neither"


def _nvpmodel(spec: SetterSpec) -> str:
    if shutil.which(spec.nvpmodel_program) is None:
        return f"there is no program {spec.nvpmodel_program}"
    return "" if spec.nvpmodel_mode >= 0 else OFF


ACTUATORS: Final = (
    Actuator("pacing", "rest between micro-batches", "none", "one micro-batch",
             "0 to 1 of full duty", "nothing to put back", _always),
    Actuator("micro-batch", "micro-batches cut into pieces", "none", "one micro-batch",
             "1 to 1/16 of a micro-batch; jobs with deterministic = false", "nothing to put back", _always),
    Actuator("SM partition", "green context of a worker", "none", "start of the worker",
             "8 multiprocessors to all, in steps of 8", "ends with the worker", _partition),
    Actuator("power limit", "NVML, by the setter", "root or CAP_SYS_ADMIN", "10 to 20 ms, then the card's own",
             "the card's constraints, narrowed by [actuators]", "the limit that was found", _power_limit),
    Actuator("clock lock", "NVML, by the setter", "root or CAP_SYS_ADMIN", "milliseconds to tens of them",
             "1 MHz to the card's highest clock", "the driver's default", _clock_lock),
    Actuator("nvpmodel", "Jetson's power modes, by the setter", "root", "seconds",
             "the board's modes", "the mode that was found", _nvpmodel),
    Actuator("rail switch", "the power board, by the core", "none", "one minor frame; the worker is lost",
             "off or on", "on by command or at the end of SAFE", _always),
)  # fmt: skip


def render(spec: SetterSpec) -> str:
    """The table as text, one paragraph each."""
    lines = []
    for row in ACTUATORS:
        reason = row.check(spec)
        lines.append(f"{row.name:13s}{f'not available: {reason}' if reason else 'available'}")
        for title, text in (
            ("mechanism", row.mechanism), ("privilege", row.privilege), ("latency", row.latency),
            ("range", row.range), ("puts back", row.puts_back),
        ):  # fmt: skip
            lines.append(f"    {title:10s} {text}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """``python -m flightsw.gpu.actuators.table SPEC``: print the table for a ``SetterSpec`` in JSON."""
    sys.stdout.write(render(msgspec.json.decode(arguments[0], type=SetterSpec)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
