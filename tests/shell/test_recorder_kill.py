"""R16: kill -9 at any moment: what was committed is there, what was acknowledged is never sent again.

The test looks into the database as another process while the recorder works. What it has seen there was committed,
so it must be there after the kill, whenever that came: in an insert, a playback, a checkpoint of the log.
"""

import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from recorder_bench import Bench, identity

RECORDER = Path(__file__).with_name("killed_recorder.py")
KILLS = 4
WAIT_MAX_S = 0.6
Eventually = Callable[..., None]
Identity = tuple[int, int, int]
_PACKETS = "SELECT boot, apid, sequence, acknowledged, sends FROM packets"


class Seen:
    """What was seen committed: packets, those acknowledged, how often each was sent, and the newest of the ring."""

    def __init__(self) -> None:
        self.packets: set[Identity] = set()
        self.acknowledged: set[Identity] = set()
        self.sends: dict[Identity, int] = {}
        self.ring: list[tuple[int, int]] = []

    def look(self, path: Path) -> None:
        """One consistent look."""
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            connection.execute("BEGIN")
            rows = connection.execute(_PACKETS).fetchall()
            ring = connection.execute("SELECT boot, sequence FROM events ORDER BY number").fetchall()
        identities = {(boot, apid, sequence) for boot, apid, sequence, _, _ in rows}
        acknowledged = {(b, a, s) for b, a, s, acknowledged, _ in rows if acknowledged}
        assert self.packets <= identities, "a committed packet is gone"
        assert self.acknowledged <= acknowledged, "an acknowledgement is gone"
        for boot, apid, sequence, _, sends in rows:
            assert sends >= self.sends.get((boot, apid, sequence), 0), "a send is forgotten"
            self.sends[boot, apid, sequence] = sends
        if ring and self.ring:
            assert ring[-1] >= self.ring[-1], "the ring lost its newest events"
            if len(ring) < 1000:
                assert ring[: len(self.ring)] == self.ring, "the ring lost events while it had room"
        self.packets, self.acknowledged, self.ring = identities, acknowledged, ring


def live_and_die(folder: Path, boot: int, rng: random.Random, seen: Seen) -> None:
    """One life of the recorder, watched, and killed after a random time."""
    process = subprocess.Popen(
        [sys.executable, str(RECORDER), str(folder), str(boot), str(rng.randrange(10**6))],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30.0)[0], "the recorder does not start"
        assert process.stdout.readline() == b"open\n"
        end_s = time.monotonic() + rng.uniform(0.0, WAIT_MAX_S)
        while time.monotonic() < end_s:
            with suppress(sqlite3.OperationalError):
                seen.look(folder / "recorder.sqlite")
            assert process.poll() is None, "the recorder ended by itself"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10.0)
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.process
@pytest.mark.parametrize("seed", [1, 2])
def test_r16_kill_at_any_moment(tmp_path: Path, eventually: Eventually, seed: int) -> None:
    rng, seen = random.Random(seed), Seen()
    for boot in range(1, KILLS + 1):
        live_and_die(tmp_path, boot, rng, seen)
        seen.look(tmp_path / "recorder.sqlite")
    assert seen.packets
    assert seen.acknowledged
    # The last life sends all that is left: never what was acknowledged, and first what was never sent.
    bench = Bench(tmp_path, ack_timeout_s=2.0)
    assert bench.recorder.open() == max(boot for boot, _, _ in seen.packets)
    expected = seen.packets - seen.acknowledged
    never = {identity for identity in expected if seen.sends[identity] == 0}
    got: list[Identity] = []

    def all_back() -> bool:
        bench.recorder.play_back(20_000)
        while bench.delivered:
            got.append(identity(bench.delivered.pop(0)))
        return set(got) >= expected

    eventually(all_back, 60.0, "everything comes back")
    assert not bench.recorder.status().fault
    bench.recorder.close()
    assert set(got) == expected, "something acknowledged came again"
    assert set(got[: len(never)]) == never, "what was never sent goes first"
