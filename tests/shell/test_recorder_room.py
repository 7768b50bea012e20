"""R16: what goes when room is short: age, share, quota, and a disk that is really full."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from recorder_bench import Bench, event, left, retention, row, transact

from flightsw.core import recording
from flightsw.link.apids import APID_HK_MAIN
from flightsw.shell import recorder_room
from flightsw.shell import recorder_tables as tables

Eventually = Callable[..., None]
FULL_DISK = Path(__file__).with_name("full_disk.py")
DISK_BYTES = 4 << 20


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = tables.connect(tmp_path / "recorder.sqlite")
    yield connection
    connection.close()


def by_priority(connection: sqlite3.Connection) -> Counter[int]:
    return Counter(p for (p,) in connection.execute("SELECT priority FROM packets"))


def test_r16_quota_sheds_acknowledged_first_then_least_important_then_oldest(
    connection: sqlite3.Connection,
) -> None:
    acknowledged = [row(n, priority=3, size=900) for n in range(128)]
    important = [row(n, priority=0, size=900) for n in range(128, 256)]
    lesser = [row(n, priority=5, size=900) for n in range(256, 640)]
    transact(connection, acknowledged + important + lesser, [(1, APID_HK_MAIN, 0, 127)])

    def quota() -> float:
        return (recorder_room.used_bytes(connection) - 1) / 1e6

    outcome = transact(connection, quota_mb=quota())
    assert (outcome.shed, outcome.holding.pending) == (0, 512)
    assert left(connection) == list(range(128, 640))
    outcome = transact(connection, quota_mb=quota())
    assert (outcome.shed, outcome.holding.pending) == (128, 384)
    assert left(connection) == [*range(128, 256), *range(384, 640)]
    transact(connection, quota_mb=1e-6)
    assert left(connection) == []


def test_r16_the_order_of_shedding_over_all_groups(connection: sqlite3.Connection) -> None:
    """Groups of one batch each go one after the other: housekeeping first, CRITICAL events last."""
    batch = range(recorder_room.SHED_BATCH)
    rows = [row(n, priority=p) for p in (0, 2, 3, 4, 5) for n in batch]
    rows += [event(n, severity=2) for n in batch] + [event(1000 + n, severity=4) for n in batch]
    transact(connection, rows)
    order = []
    while (lost := recorder_room.shed_least(connection)) is not None:
        used = tables.holding(connection).used_bytes
        order.append([code for code, octets in enumerate(used) if octets == 0])
        assert lost == recorder_room.SHED_BATCH
    gone = [next(iter(set(now) - set(before))) for before, now in zip([[], *order], order, strict=False)]
    assert tuple(gone) == recording.SHED_ORDER


def test_r16_a_group_keeps_to_its_share(connection: sqlite3.Connection) -> None:
    shares = [1.0] * 7
    shares[recording.HK_FAST] = 0.1
    bounds = {"quota_mb": 1.0, "shares": tuple(shares)}
    for start in range(0, 2000, 100):
        fast = [row(n, priority=5, size=200) for n in range(start, start + 100)]
        main = [row(n, priority=3, size=200) for n in range(start, start + 100)]
        outcome = transact(connection, fast + main, **bounds)
    held = outcome.holding.used_bytes
    assert 50_000 < held[recording.HK_FAST] <= 100_000
    assert by_priority(connection)[3] == 2000
    newest = connection.execute("SELECT MAX(sequence) FROM packets WHERE priority=5").fetchone()[0]
    assert newest == 1999


def test_r16_a_group_over_its_share_loses_what_is_acknowledged_first(connection: sqlite3.Connection) -> None:
    shares = tuple(0.1 if code == recording.HK_MAIN else 1.0 for code in range(7))
    transact(connection, [row(n, size=200) for n in range(600)], [(1, APID_HK_MAIN, 300, 599)])
    outcome = transact(connection, quota_mb=1.0, shares=shares)
    assert outcome.shed == 0
    assert left(connection)[:300] == list(range(300))
    assert len(left(connection)) < 350


def test_r16_old_packets_go_by_the_age_of_their_group(connection: sqlite3.Connection) -> None:
    ages = tuple(100.0 if code == recording.HK_FAST else 0.0 for code in range(7))
    transact(connection, [row(1, priority=5), row(2, priority=3)], now_s=10.0)
    transact(connection, [row(3, priority=5)], now_s=60.0)
    assert transact(connection, now_s=110.0, ages=ages).expired == 0
    outcome = transact(connection, now_s=110.1, ages=ages)
    assert (outcome.expired, outcome.shed, outcome.holding.pending) == (1, 0, 2)
    assert left(connection) == [2, 3]
    transact(connection, [row(4, priority=5)], [(1, 0x20, 3, 3)], now_s=160.1, ages=ages)
    assert left(connection) == [2, 4]


def test_tallies_agree_with_the_rows(connection: sqlite3.Connection) -> None:
    """Triggers keep them through every kind of change."""
    for turn in range(30):
        rows = [row(100 * turn + n, priority=p, size=50 + 9 * n) for n in range(20) for p in (0, 3, 5)]
        rows += [event(100 * turn + n, severity=n % 6) for n in range(10)]
        transact(
            connection,
            rows,
            [(1, APID_HK_MAIN, 100 * turn, 100 * turn + 9)],
            budget=2000,
            now_s=float(turn),
            quota_mb=0.2,
            ages=(0.0,) * 6 + (10.0,),
        )
    counted = connection.execute(
        f"SELECT grp, COUNT(*), SUM(LENGTH(packet) + {tables.ROW_BYTES}), SUM(acknowledged=0)"
        " FROM packets GROUP BY grp"
    ).fetchall()
    kept = connection.execute(
        "SELECT grp, packets, bytes, pending FROM tallies WHERE packets ORDER BY grp"
    ).fetchall()
    assert kept == counted
    assert len(kept) >= 3


def test_the_cost_of_a_row_is_about_right(connection: sqlite3.Connection) -> None:
    """Shares are held against tallies, the quota against pages: both mean the same bytes, within a third."""
    for start in range(0, 6000, 500):
        transact(connection, [row(n, size=150) for n in range(start, start + 500)])
    ratio = sum(tables.holding(connection).used_bytes) / recorder_room.used_bytes(connection)
    assert 0.75 < ratio < 1.33


def test_quota_holds_while_it_runs(tmp_path: Path, eventually: Eventually) -> None:
    bench = Bench(tmp_path, quota_mb=0.25)
    bench.recorder.open()
    for start in range(0, 2000, 250):
        for n in range(start, start + 250):
            bench.recorder.record(row(n, size=900))
        eventually(lambda s=start: bench.recorder.status().shed > 0 or s < 500, what="shed")
    bench.recorder.close()
    with closing(sqlite3.connect(bench.path)) as connection:
        assert recorder_room.used_bytes(connection) <= 250_000
        newest = connection.execute("SELECT MAX(sequence) FROM packets").fetchone()[0]
    assert newest == 1999


def test_r16_new_bounds_are_held_from_then_on(tmp_path: Path, eventually: Eventually) -> None:
    bench = Bench(tmp_path)
    bench.recorder.open()
    for n in range(1000):
        bench.recorder.record(row(n, size=900))
    eventually(lambda: bench.recorder.status().used_bytes[recording.HK_MAIN] > 900_000)
    shares = tuple(0.1 if code == recording.HK_MAIN else 1.0 for code in range(7))
    bench.recorder.retain(retention(quota_mb=2.0, shares=shares))
    bench.recorder.record(row(1000))
    eventually(lambda: bench.recorder.status().used_bytes[recording.HK_MAIN] <= 200_000)
    assert bench.recorder.status().shed > 700
    bench.recorder.close()


# --- a full disk --------------------------------------------------------------------------------------------


def test_r16_a_database_that_cannot_grow_goes_on_with_what_matters(tmp_path: Path) -> None:
    """SQLite's own bound of pages stands for the disk: the same error, without a file system of its own."""
    with closing(tables.connect(tmp_path / "recorder.sqlite")) as connection:
        pages = 300
        connection.execute(f"PRAGMA max_page_count={pages}")

        def until_full() -> None:
            for start in range(0, 100_000, 64):
                transact(connection, [row(n, priority=5, size=900) for n in range(start, start + 64)])

        with pytest.raises(sqlite3.OperationalError) as full:
            until_full()
        assert recorder_room.is_full(full.value, tmp_path / "recorder.sqlite")
        ceiling, shed = recorder_room.make_room(connection)
        assert shed > 0
        for start in range(0, 8000, 64):
            rows = [event(n, severity=4, size=100) for n in range(start, start + 64)]
            transact(connection, rows, ceiling=ceiling)
        counts = by_priority(connection)
        assert counts[0] > 1500
        assert counts[5] == 0
        assert recorder_room.used_bytes(connection) <= ceiling


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(122, "Disk quota exceeded"), True),
        (OSError(5, "Input/output error"), False),
        (sqlite3.OperationalError("no code"), False),
    ],
)
def test_what_counts_as_full(tmp_path: Path, error: OSError | sqlite3.Error, full: bool) -> None:
    assert recorder_room.is_full(error, tmp_path / "x") is full


def test_reserve_is_taken_and_given_back(tmp_path: Path) -> None:
    reserve = recorder_room.Reserve(tmp_path / "db")
    assert reserve.take()
    assert reserve.take()
    (path,) = tmp_path.iterdir()
    assert path.stat().st_blocks * 512 >= recorder_room.RESERVE_BYTES
    reserve.release()
    reserve.release()
    assert list(tmp_path.iterdir()) == []
    assert not recorder_room.Reserve(tmp_path / "none" / "db").take()


def own_mounts() -> list[str]:
    """A command prefix that gives a process mounts of its own, or nothing where that is not permitted."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return []
    prefix = [unshare, "--user", "--map-root-user", "--mount"]
    script = "mount -t tmpfs -o size=1m tmpfs /tmp"
    tried = subprocess.run([*prefix, "sh", "-c", script], capture_output=True, timeout=20)
    return prefix if tried.returncode == 0 else []


@pytest.mark.process
def test_r16_a_really_full_disk_sheds_the_least_important_and_recovers(tmp_path: Path) -> None:
    """A small file system of its own is filled up under a running recorder, then given room again."""
    prefix = own_mounts()
    if not prefix:
        pytest.skip("this machine does not let a process mount a file system of its own")
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size={DISK_BYTES} tmpfs "$0" && exec "$1" "$2" "$0"'
    done = subprocess.run(
        [*prefix, "sh", "-c", script, str(disk), sys.executable, str(FULL_DISK)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[-1] == "ok"
