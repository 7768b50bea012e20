"""R14: boot counts that never repeat, the cause of each reset, the last 20 with their context, the crash loop."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from flightsw.core.inputs import Reset, ResetCause
from flightsw.link.dictionary import RESET_CAUSES
from flightsw.link.telecommands import RESETS_MAX
from flightsw.shell import boot_record, last_words, pulse
from flightsw.shell.boot_record import BOOT_KEY, CAUSE_TEXTS, Boot, BootRecord, begin
from flightsw.shell.pulse import Context, Pulse, PulseFile
from flightsw.shell.store import Store

LAST = Context(uptime_s=77.5, mode="SAFE", safe_cause="soc_low", tai_s=2e9)


def boot(store: Store, recorded_boot: int = 0, **how: Any) -> Boot:
    return begin(store, recorded_boot=recorded_boot, crash_loop_boots=3, **{"kernel_boot": "k1", **how})


def end(store: Store, life: Boot, how: str, reason: str = "") -> None:
    record = msgspec.structs.replace(life.record, end=how, reason=reason, context=LAST)
    assert boot_record.write(store, record) == ""


# (ends of the lives before, cause, unclean boots in a row, crash loop) of the next boot.
LIVES = (
    ([], "FIRST_BOOT", 0, False),
    (["stop"], "CLEAN", 0, False),
    (["restart"], "COMMAND", 0, False),
    (["ladder"], "LADDER", 0, False),
    (["failed"], "FAILED", 1, False),
    (["killed"], "UNCLEAN", 1, False),
    (["killed", "failed"], "FAILED", 2, False),
    (["killed", "killed", "killed"], "UNCLEAN", 3, True),
    (["killed", "killed", "killed", "killed"], "UNCLEAN", 4, True),
    (["killed", "killed", "stop", "killed"], "UNCLEAN", 1, False),
    (["killed", "killed", "good, killed"], "UNCLEAN", 1, False),
    (["killed", "killed", "stop"], "CLEAN", 0, False),
)


@pytest.mark.parametrize(("ends", "cause", "unclean", "crash_loop"), LIVES, ids=[" ".join(r[0]) for r in LIVES])
def test_r14_lives(tmp_path: Path, ends: list[str], cause: str, unclean: int, crash_loop: bool) -> None:
    store = Store(tmp_path)
    for number, how in enumerate(ends, 1):
        life = boot(store)
        assert life.record.boot_count == number
        if how == "good, killed":
            boot_record.write(store, msgspec.structs.replace(life.record, unclean_in_a_row=0))
        elif how != "killed":
            end(store, life, how)
    life = boot(store)
    assert life.record.boot_count == len(ends) + 1
    assert (life.cause, life.record.unclean_in_a_row, life.crash_loop) == (cause, unclean, crash_loop)
    assert life.faults == ()
    assert [r.boot for r in life.record.resets] == list(range(1, len(ends) + 2))


def test_every_cause_has_a_code_and_a_text() -> None:
    assert RESET_CAUSES == ResetCause.__args__ == tuple(CAUSE_TEXTS)


# (how the last life ended, kernel's boot id now, last words, cause, power on)
OUTSIDE = (
    ("killed", "k1", "", "UNCLEAN", False),
    ("killed", "k1", "ended by SIGKILL", "UNCLEAN", False),
    ("killed", "k1", "watchdog: no sign of life for 10 s", "WATCHDOG", False),
    ("killed", "k2", "", "POWER_ON", True),
    ("killed", "k2", "watchdog: no sign of life for 10 s", "POWER_ON", True),
    ("stop", "k2", "", "POWER_ON", True),
    ("killed", "", "", "UNCLEAN", False),
    # What ended in order was not killed, whatever somebody says.
    ("restart", "k1", "watchdog: no sign of life for 10 s", "COMMAND", False),
)


@pytest.mark.parametrize(("how", "kernel", "words", "cause", "power_on"), OUTSIDE)
def test_r14_causes_from_outside(
    tmp_path: Path, how: str, kernel: str, words: str, cause: str, power_on: bool
) -> None:
    store = Store(tmp_path)
    first = boot(store)
    assert first.power_on
    if how != "killed":
        end(store, first, how, "telecommand")
    life = boot(store, kernel_boot=kernel, last_words=words)
    assert (life.cause, life.power_on) == (cause, power_on)
    assert life.record.resets[-1].reason == ("telecommand" if how != "killed" else words)


def test_r14_the_last_twenty_resets_with_their_context(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for _ in range(30):
        end(store, boot(store), "restart", "telecommand")
    resets = boot(store).record.resets
    assert [r.boot for r in resets] == list(range(12, 32))
    assert len(resets) == RESETS_MAX
    assert resets[-1] == Reset(
        boot=31, cause="COMMAND", uptime_s=77.5, mode="SAFE", safe_cause="soc_low", tai_s=2e9, reason="telecommand"
    )


def test_r14_a_sudden_end_has_the_context_of_the_last_pulse(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = boot(store)
    reset = boot(store, pulse=Pulse(first.record.boot_count, LAST), last_words="ended by SIGKILL").record.resets[-1]
    assert (reset.uptime_s, reset.mode, reset.safe_cause, reset.tai_s) == (77.5, "SAFE", "soc_low", 2e9)
    # The pulse of another life says nothing about this one.
    assert boot(store, pulse=Pulse(1, LAST)).record.resets[-1].mode == ""


def test_r14_the_count_has_more_than_32_bits(tmp_path: Path) -> None:
    assert boot(Store(tmp_path), recorded_boot=2**32).record.boot_count == 2**32 + 1


def test_a_lost_record_does_not_repeat_a_boot_count(tmp_path: Path) -> None:
    life = boot(Store(tmp_path), recorded_boot=41)
    assert life.record.boot_count == 42
    assert (life.cause, life.power_on) == ("RECORD_LOST", True)
    assert life.record.unclean_in_a_row == 1
    assert "continues at 42" in life.faults[0]


def test_a_record_behind_the_recorder_follows_the_recorder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    end(store, boot(store), "stop")
    assert boot(store, recorded_boot=7).record.boot_count == 8


def test_one_flipped_copy_is_told_and_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    end(store, boot(store), "stop")
    data = bytearray((tmp_path / "boot.b").read_bytes())
    data[-6] ^= 1
    (tmp_path / "boot.b").write_bytes(data)
    life = boot(store)
    assert (life.record.boot_count, life.cause) == (2, "CLEAN")
    assert life.faults == (f"boot.b: corrupt copy of {len(data)} bytes",)


RESET = {"boot": 1, "cause": "CLEAN"}
# One row per field of the record and of what it holds.
BAD = (
    ("boot_count", "many"),
    ("boot_count", -1),
    ("unclean_in_a_row", -1),
    ("kernel_boot", 5),
    ("end", "boredom"),
    ("reason", 5),
    ("context", {"uptime_s": -1.0}),
    ("context", {"mode": "M" * 33}),
    ("context", {"safe_cause": 1}),
    ("context", {"tai_s": "now"}),
    ("resets", [{"boot": "1", "cause": "CLEAN"}]),
    ("resets", [{"boot": 1, "cause": "BOREDOM"}]),
    ("resets", [{**RESET, "uptime_s": "long"}]),
    ("resets", [{**RESET, "mode": 1}]),
    ("resets", [{**RESET, "safe_cause": 1}]),
    ("resets", [{**RESET, "tai_s": "now"}]),
    ("resets", [{**RESET, "reason": 1}]),
    ("resets", [RESET] * 21),
)


@pytest.mark.parametrize(("field", "value"), BAD, ids=[f"{row[0]}-{i}" for i, row in enumerate(BAD)])
def test_a_record_of_another_make_is_a_fault(tmp_path: Path, field: str, value: object) -> None:
    store = Store(tmp_path)
    sound = msgspec.to_builtins(BootRecord(boot_count=3))
    store.save(BOOT_KEY, msgspec.msgpack.encode(sound))
    assert boot(store).record.boot_count == 4
    store.save(BOOT_KEY, msgspec.msgpack.encode({**sound, field: value}))
    life = boot(store)
    assert (life.record.boot_count, life.cause) == (1, "RECORD_LOST")
    assert "boot record" in life.faults[0]


def test_the_kernel_names_its_boot(tmp_path: Path) -> None:
    assert boot_record.kernel_boot_id() == boot_record.kernel_boot_id()
    assert boot_record.kernel_boot_id(tmp_path / "not there") == ""


# --- the pulse ---------------------------------------------------------------------------------------------


def beats(path: Path, *uptimes: float) -> None:
    file = PulseFile(path)
    for uptime_s in uptimes:
        assert file.write(Pulse(4, msgspec.structs.replace(LAST, uptime_s=uptime_s))) == ""
    file.close()


def test_the_newest_pulse_is_read(tmp_path: Path) -> None:
    beats(tmp_path / "pulse", 1.0, 2.0, 3.0)
    found = pulse.read(tmp_path / "pulse")
    assert found is not None
    assert (found.boot, found.context.uptime_s) == (4, 3.0)


def test_a_torn_pulse_leaves_the_one_before(tmp_path: Path) -> None:
    beats(tmp_path / "pulse", 1.0, 2.0)
    data = bytearray((tmp_path / "pulse").read_bytes())
    data[pulse.SLOT_BYTES + 20] ^= 1
    (tmp_path / "pulse").write_bytes(data)
    found = pulse.read(tmp_path / "pulse")
    assert found is not None
    assert found.context.uptime_s == 1.0


@pytest.mark.parametrize("data", [b"", b"\0", bytes(512), b"\xff" * 512, b"\0\1\xe8\xb7\xbe\x43\x61"])
def test_a_file_that_is_no_pulse(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "pulse").write_bytes(data)
    assert pulse.read(tmp_path / "pulse") is None


def test_a_pulse_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "pulse").mkdir()
    beats(tmp_path / "pulse", 1.0)
    assert pulse.read(tmp_path / "pulse") is None


def test_the_longest_pulse_fits_its_slot(tmp_path: Path) -> None:
    longest = Pulse(2**64 - 1, Context(uptime_s=1e300, mode="M" * 32, safe_cause="s" * 32, tai_s=2e9))
    file = PulseFile(tmp_path / "pulse")
    file.write(longest)
    file.close()
    assert (tmp_path / "pulse").stat().st_size == pulse.SLOT_BYTES
    assert pulse.read(tmp_path / "pulse") == longest


# --- last words --------------------------------------------------------------------------------------------


def test_who_speaks_first_is_heard_and_all_is_used_up(tmp_path: Path) -> None:
    def written() -> dict[str, str]:
        (tmp_path / "stall").write_text("Timeout (0:00:20)!\nThread 1")
        (tmp_path / "last_end").write_text("watchdog killed KILL\n")
        return {"GPUSAT_LAST_END": "ended by SIGKILL\n\x1b[31m"}

    environment = written()
    assert last_words.take(environment, tmp_path) == ("ended by SIGKILL  [31m", "Timeout (0:00:20)!\nThread 1")
    assert environment == {}
    assert last_words.take(environment, tmp_path) == ("", "")
    written()
    assert last_words.take({}, tmp_path)[0].startswith("watchdog: no healthy frame")
    written()
    (tmp_path / "stall").write_text("")
    assert last_words.take({}, tmp_path)[0] == "watchdog killed KILL (systemd)"
