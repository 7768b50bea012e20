"""What one life of the daemon tells the next: how often it booted, how the last life ended, and the last resets.

The boot count is part of the identity of every telemetry packet, so it must never repeat. It is therefore the
larger of what the store and the recorder remember, plus one: losing either is not enough to reuse a count.

*Reset cause.* An orderly end writes down what it was (``End``); a failed executive does, too. Otherwise the life
was ended from outside, and whoever did it may leave *last words* for us: the guard, systemd, or our own stall
timer (``last_words``). Words that begin with "watchdog" make the cause WATCHDOG. A kernel boot id that is another
one means that the computer was off: POWER_ON, whatever the daemon did before.

A boot is *unclean* when the life before it had no orderly end: it crashed, was killed, or lost power. A
crash loop is a row of unclean boots of which none lived long enough to count as good. Counting lives instead of
comparing times needs no clock that survives a power cut.

The *context* of a reset (uptime, mode, cause of SAFE, TAI) is written at an orderly end; of a life that was cut
short it is the last ``pulse``, at most about a second old.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from flightsw.core.inputs import Reset, ResetCause
from flightsw.link.telecommands import RESETS_MAX

from .pulse import Context, Pulse
from .store import Store

BOOT_KEY: Final = "boot"
REASON_CHARACTERS_MAX: Final = 200
KERNEL_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

End = Literal["stop", "restart", "ladder"]
"""How an orderly end goes on: not at all, by telecommand, by the restart ladder."""

CAUSE_TEXTS: Final[dict[ResetCause, str]] = {
    "FIRST_BOOT": "first boot",
    "POWER_ON": "power on",
    "CLEAN": "start after a clean shutdown",
    "COMMAND": "restart by command",
    "LADDER": "restart by the ladder",
    "UNCLEAN": "unclean end of the last boot",
    "WATCHDOG": "ended by a watchdog",
    "FAILED": "the executive failed",
    "RECORD_LOST": "boot record lost",
}
_CAUSES: Final[dict[str, ResetCause]] = {
    "stop": "CLEAN",
    "restart": "COMMAND",
    "ladder": "LADDER",
    "failed": "FAILED",
    "": "UNCLEAN",
}
_ORDERLY: Final = frozenset(("stop", "restart", "ladder"))


class BootRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The durable record of one life: its number, what it inherited, and, once it is known, how it ended.

    ``unclean_in_a_row`` counts boots; ``end`` is empty while the life lasts; ``context`` belongs to the end.
    """

    boot_count: Annotated[int, Meta(ge=0)] = 0
    unclean_in_a_row: Annotated[int, Meta(ge=0)] = 0
    kernel_boot: str = ""
    end: Literal["", "stop", "restart", "ladder", "failed"] = ""
    reason: str = ""
    context: Context = Context()
    resets: Annotated[tuple[Reset, ...], Meta(max_length=RESETS_MAX)] = ()


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """This life: its record as written, why it began, whether it is part of a crash loop, and store faults."""

    record: BootRecord
    cause: ResetCause
    crash_loop: bool
    faults: tuple[str, ...]

    @property
    def power_on(self) -> bool:
        """Whether the computer was off before; when in doubt it was."""
        return self.cause in ("FIRST_BOOT", "POWER_ON", "RECORD_LOST")


def begin(
    store: Store,
    *,
    recorded_boot: int,
    crash_loop_boots: int,
    kernel_boot: str = "",
    last_words: str = "",
    pulse: Pulse | None = None,
) -> Boot:
    """Count this boot, append its reset, and write both down, marked as running until it ends.

    ``recorded_boot`` is the highest boot count that the recorder holds packets of, 0 for none.
    """
    loaded = store.load(BOOT_KEY)
    faults = list(loaded.faults)
    previous = None
    if loaded.payload is not None:
        try:
            previous = msgspec.msgpack.decode(loaded.payload, type=BootRecord)
        except msgspec.MsgspecError as error:
            faults.append(f"boot record: {error}")
    lost = previous is None and (recorded_boot > 0 or bool(faults))
    last = previous or BootRecord()
    orderly = last.end in _ORDERLY or (previous is None and not lost)
    unclean = 0 if orderly else last.unclean_in_a_row + 1
    boot_count = max(last.boot_count, recorded_boot) + 1
    if lost:
        faults.append(f"boot record lost, boot count continues at {boot_count}")
    cause = _cause(previous, lost, kernel_boot, last_words)
    context = last.context
    if not last.end and pulse is not None and pulse.boot == last.boot_count:
        context = pulse.context
    reset = Reset(
        boot=boot_count,
        cause=cause,
        uptime_s=context.uptime_s,
        mode=context.mode,
        safe_cause=context.safe_cause,
        tai_s=context.tai_s,
        reason=(last.reason or last_words)[:REASON_CHARACTERS_MAX],
    )
    record = BootRecord(
        boot_count=boot_count,
        unclean_in_a_row=unclean,
        kernel_boot=kernel_boot,
        resets=(*last.resets, reset)[-RESETS_MAX:],
    )
    if fault := write(store, record):
        faults.append(fault)
    return Boot(record=record, cause=cause, crash_loop=unclean >= crash_loop_boots, faults=tuple(faults))


def write(store: Store, record: BootRecord) -> str:
    """Save the record; returns a fault or ""."""
    return store.save(BOOT_KEY, msgspec.msgpack.encode(record))


def kernel_boot_id(path: Path = KERNEL_BOOT_ID) -> str:
    """The kernel's name of its own boot; "" where it does not tell, and then no boot is a power-on by that."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()[:64]
    except OSError:
        return ""


def _cause(previous: BootRecord | None, lost: bool, kernel_boot: str, last_words: str) -> ResetCause:
    if lost:
        return "RECORD_LOST"
    if previous is None:
        return "FIRST_BOOT"
    if kernel_boot and previous.kernel_boot and kernel_boot != previous.kernel_boot:
        return "POWER_ON"
    if not previous.end and last_words.startswith("watchdog"):
        return "WATCHDOG"
    return _CAUSES[previous.end]
