"""Boot record: counts that never repeat, the clean flag, the crash loop."""

from pathlib import Path

import msgspec
import pytest

from flightsw.shell import boot_record
from flightsw.shell.boot_record import BOOT_KEY, Boot, BootRecord, begin
from flightsw.shell.store import Store


def boot(store: Store, recorded_boot: int = 0) -> Boot:
    return begin(store, recorded_boot=recorded_boot, crash_loop_boots=3)


# (ends of the lives before, cause, unclean boots in a row, crash loop) of the next boot.
LIVES = (
    ([], "first boot", 0, False),
    (["clean"], "start after a clean shutdown", 0, False),
    (["restart"], "restart by command", 0, False),
    (["killed"], "unclean end of the last boot", 1, False),
    (["killed", "killed"], "unclean end of the last boot", 2, False),
    (["killed", "killed", "killed"], "unclean end of the last boot", 3, True),
    (["killed", "killed", "killed", "killed"], "unclean end of the last boot", 4, True),
    (["killed", "killed", "clean", "killed"], "unclean end of the last boot", 1, False),
    (["killed", "killed", "good, killed"], "unclean end of the last boot", 1, False),
    (["killed", "killed", "clean"], "start after a clean shutdown", 0, False),
)


@pytest.mark.parametrize(("ends", "cause", "unclean", "crash_loop"), LIVES, ids=[" ".join(r[0]) for r in LIVES])
def test_lives(tmp_path: Path, ends: list[str], cause: str, unclean: int, crash_loop: bool) -> None:
    store = Store(tmp_path)
    for number, end in enumerate(ends, 1):
        life = boot(store)
        assert life.record.boot_count == number
        if end in ("clean", "restart"):
            assert boot_record.end(store, life.record, restart=end == "restart") == ""
        elif end == "good, killed":
            assert boot_record.good(store, life.record) == ""
    life = boot(store)
    assert life.record.boot_count == len(ends) + 1
    assert (life.cause, life.record.unclean_in_a_row, life.crash_loop) == (cause, unclean, crash_loop)
    assert life.faults == ()


def test_a_lost_record_does_not_repeat_a_boot_count(tmp_path: Path) -> None:
    life = boot(Store(tmp_path), recorded_boot=41)
    assert life.record.boot_count == 42
    assert life.cause == "boot record lost"
    assert life.record.unclean_in_a_row == 1
    assert "continues at 42" in life.faults[0]


def test_a_record_behind_the_recorder_follows_the_recorder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    boot_record.end(store, boot(store).record, restart=False)
    assert boot(store, recorded_boot=7).record.boot_count == 8


def test_one_flipped_copy_is_told_and_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    boot_record.end(store, boot(store).record, restart=False)
    data = bytearray((tmp_path / "boot.b").read_bytes())
    data[-6] ^= 1
    (tmp_path / "boot.b").write_bytes(data)
    life = boot(store)
    assert (life.record.boot_count, life.cause) == (2, "start after a clean shutdown")
    assert life.faults == (f"boot.b: corrupt copy of {len(data)} bytes",)


def test_a_record_of_another_make_is_a_fault(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(BOOT_KEY, msgspec.msgpack.encode({"boot_count": "many"}))
    life = boot(store)
    assert life.record.boot_count == 1
    assert "boot record" in life.faults[0]
    store.save(BOOT_KEY, msgspec.msgpack.encode(BootRecord(boot_count=3)))
    assert boot(store).record.boot_count == 4
