"""Fills up a small file system under a running recorder; run by ``test_recorder_room`` with mounts of its own.

Prints what was seen, and "ok" at the end. Every check is an assertion.
"""

import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from recorder_bench import Bench, event, row

from flightsw.link.apids import APID_EVENT
from flightsw.shell.recorder import Recorder


def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline_s, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        pause.wait(0.005)


def fill_up(path: Path) -> None:
    """Take every free byte of the disk."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass


def main(disk: Path) -> None:
    bench = Bench(disk)
    recorder = bench.recorder
    assert recorder.open() == 0
    assert not recorder.status().full
    for n in range(500):
        recorder.record(row(n, priority=5, size=700))
    until(lambda: recorder.status().pending == 500 and bench.stored() == 500, "recorded")
    fill_up(disk / "ballast")
    print("disk filled, recorder holds", recorder.status().used_bytes)

    made = 500
    critical = 0
    turns = 0
    # Less and less important packets come all the time; now and then a CRITICAL event.
    while turns < 150 or not recorder.status().full:
        turns += 1
        assert turns < 2000, "the disk never became full"
        for _ in range(20):
            recorder.record(row(made, priority=5, size=700))
            made += 1
        recorder.record(event(critical, severity=4, size=200))
        critical += 1
        committed(recorder)
    status = recorder.status()
    print("full after", turns, "turns:", status)
    assert status.full
    assert status.shed > 500
    assert status.dropped == 0
    assert not status.fault, status.fault

    with closing(sqlite3.connect(f"file:{bench.path}?mode=ro", uri=True)) as connection:
        query = "SELECT COUNT(*) FROM packets WHERE apid=? AND priority=0"
        kept = connection.execute(query, (APID_EVENT,)).fetchone()[0]
        newest = connection.execute("SELECT MAX(sequence) FROM packets WHERE priority=5").fetchone()[0]
    assert kept == critical, f"{kept} of {critical} CRITICAL events are kept"
    assert newest is not None, "the least important are still recorded"
    assert newest > made - 200, "and they are the newest"

    (disk / "ballast").unlink()
    until(lambda: recorder.acknowledge(9, 1, 0, 0) and not recorder.status().full, "recovered")
    assert (disk / "recorder.sqlite-reserve").stat().st_size > 0
    before = recorder.status().shed
    for n in range(made, made + 500):
        recorder.record(row(n, priority=5, size=700))
    committed(recorder)
    assert recorder.status().shed == before, "nothing is shed when there is room"
    assert recorder.close() == ""
    print("ok")


def committed(recorder: Recorder) -> None:
    """Two turns of the recorder's thread: the second took what had come before the first ended."""
    before = recorder.executions
    until(lambda: recorder.executions >= before + 2, "two turns")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
