"""Last words: what those who end a daemon from outside leave for its next life.

    ``GPUSAT_LAST_END``    environment, set by ``flightd --guard`` when it starts the daemon again
    ``state_dir/stall``    where every thread stood when the daemon's own stall timer, or a fatal signal, ended it
    ``state_dir/last_end`` written by ``ExecStopPost`` of the systemd unit: result, code, status

The first that says anything is taken, all of them are used up by reading. Words that begin with "watchdog" mean
that the daemon was stuck.
"""

import contextlib
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

VARIABLE: Final = "GPUSAT_LAST_END"
STALL_FILE: Final = "stall"
SYSTEMD_FILE: Final = "last_end"
FILE_BYTES_MAX: Final = 16_384


def take(environment: MutableMapping[str, str], state_dir: Path) -> tuple[str, str]:
    """The words, "" when there are none, and the whole text of a stall for the log."""
    guard = _printable(environment.pop(VARIABLE, ""))
    stall = _used_up(state_dir / STALL_FILE)
    systemd = _printable(_used_up(state_dir / SYSTEMD_FILE))
    if guard:
        return guard, stall
    if stall.startswith("Timeout"):
        return "watchdog: no healthy frame within watchdog.stall_s", stall
    if stall:
        return _printable(stall.partition("\n")[0]), stall
    return (f"{systemd} (systemd)" if systemd else ""), stall


def _used_up(path: Path) -> str:
    """Text of a file, which is gone afterwards."""
    text = ""
    with contextlib.suppress(OSError):
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX).decode(errors="replace")
        path.unlink()
    return text.strip()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:200].strip()
