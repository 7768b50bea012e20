"""What one life of the daemon tells the next: how often it booted, and how the last life ended.

The boot count is part of the identity of every telemetry packet, so it must never repeat. It is therefore the
larger of what the store and the recorder remember, plus one: losing either is not enough to reuse a count.

A boot is *unclean* when the life before it did not write the clean flag: it crashed, was killed, or lost power. A
crash loop is a row of unclean boots of which none lived long enough to count as good. Counting lives instead of
comparing times needs no clock that survives a power cut.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .store import Store

BOOT_KEY: Final = "boot"


class BootRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The durable record. ``unclean_in_a_row`` counts boots; ``restart`` says that the life asked for the next
    one."""

    boot_count: Annotated[int, Meta(ge=0)] = 0
    clean: bool = True
    unclean_in_a_row: Annotated[int, Meta(ge=0)] = 0
    restart: bool = False


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """This life: its record as written, why it began, whether it is part of a crash loop, and store faults."""

    record: BootRecord
    cause: str
    crash_loop: bool
    faults: tuple[str, ...]


def begin(store: Store, *, recorded_boot: int, crash_loop_boots: int) -> Boot:
    """Count this boot and write it down, marked unclean until ``end``.

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
    unclean = 0 if last.clean and not lost else last.unclean_in_a_row + 1
    record = BootRecord(boot_count=max(last.boot_count, recorded_boot) + 1, clean=False, unclean_in_a_row=unclean)
    if lost:
        cause = "boot record lost"
        faults.append(f"boot record lost, boot count continues at {record.boot_count}")
    elif previous is None:
        cause = "first boot"
    elif last.clean:
        cause = "restart by command" if last.restart else "start after a clean shutdown"
    else:
        cause = "unclean end of the last boot"
    if fault := write(store, record):
        faults.append(fault)
    return Boot(record=record, cause=cause, crash_loop=unclean >= crash_loop_boots, faults=tuple(faults))


def good(store: Store, record: BootRecord) -> str:
    """This boot has lived long enough: the row of unclean boots ends. Returns a fault or ""."""
    return write(store, msgspec.structs.replace(record, unclean_in_a_row=0))


def end(store: Store, record: BootRecord, *, restart: bool) -> str:
    """Mark an orderly end; returns a fault or ""."""
    return write(store, msgspec.structs.replace(record, clean=True, restart=restart))


def write(store: Store, record: BootRecord) -> str:
    """Save the record; returns a fault or ""."""
    return store.save(BOOT_KEY, msgspec.msgpack.encode(record))
