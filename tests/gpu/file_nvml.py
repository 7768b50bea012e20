"""NVML's setters over a card that lives in a file, so that it outlives any process that changes it.

The environment variable ``FILE_NVML`` names a JSON file: ``limit``, ``low``, ``high`` (mW), ``locked`` (MHz, 0 is
not), ``max_clock``, ``uuid``, ``fail`` (function → NVML code) and ``calls``, the setters called so far.
"""

import json
import os
from pathlib import Path

SETTERS = ("nvmlDeviceSetPowerManagementLimit", "nvmlDeviceSetGpuLockedClocks", "nvmlDeviceResetGpuLockedClocks")
FRESH = {
    "limit": 700_000, "low": 200_000, "high": 700_000, "locked": 0, "max_clock": 1980, "uuid": "GPU-a", "fail": {},
    "calls": [],
}  # fmt: skip


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__({4: "Insufficient Permissions", 15: "GPU is lost"}.get(value, f"code {value}"))
        self.value = value


def path() -> Path:
    return Path(os.environ["FILE_NVML"])


def _card(function: str = "") -> dict:
    card = json.loads(path().read_text())
    code = card["fail"].get(function) or card["fail"].get("*")
    if code:
        raise NVMLError(code)
    return card


def _store(card: dict) -> None:
    temporary = path().with_suffix(".new")
    temporary.write_text(json.dumps(card))
    temporary.replace(path())


def nvmlInit() -> None:
    _card("nvmlInit")


def nvmlShutdown() -> None:
    pass


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetUUID(handle: int) -> str:
    return _card("nvmlDeviceGetUUID")["uuid"]


def nvmlDeviceGetPowerUsage(handle: int) -> int:
    return 100_000


def nvmlDeviceGetPowerManagementLimit(handle: int) -> int:
    return _card("nvmlDeviceGetPowerManagementLimit")["limit"]


def nvmlDeviceGetPowerManagementLimitConstraints(handle: int) -> list[int]:
    card = _card("nvmlDeviceGetPowerManagementLimitConstraints")
    return [card["low"], card["high"]]


def nvmlDeviceGetMaxClockInfo(handle: int, clock: int) -> int:
    return _card("nvmlDeviceGetMaxClockInfo")["max_clock"]


def _set(function: str, **changes: int) -> None:
    card = _card(function)
    _store({**card, **changes, "calls": [*card["calls"], [function, *changes.values()]]})


def nvmlDeviceSetPowerManagementLimit(handle: int, limit: int) -> None:
    _set("nvmlDeviceSetPowerManagementLimit", limit=limit)


def nvmlDeviceSetGpuLockedClocks(handle: int, low: int, high: int) -> None:
    _set("nvmlDeviceSetGpuLockedClocks", locked=high)


def nvmlDeviceResetGpuLockedClocks(handle: int) -> None:
    _set("nvmlDeviceResetGpuLockedClocks", locked=0)
