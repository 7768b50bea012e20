"""R16: the recorder: what is kept, what is played back, what survives, and what a bad disk does."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from recorder_bench import Bench, event, left, packet, row, sequences, transact

from flightsw.core.effects import Replay
from flightsw.core.link_budget import FRAMING_BYTES
from flightsw.link.apids import APID_EVENT, APID_HK_MAIN
from flightsw.link.dictionary import DESTINATION_PLAYBACK
from flightsw.link.packet import decode_tm
from flightsw.link.schema import Severity
from flightsw.shell import event_ring
from flightsw.shell import recorder_tables as tables
from flightsw.shell.recorder import QUEUE_PACKETS_MAX
from flightsw.shell.recorder_tables import Row

Eventually = Callable[..., None]
HK = APID_HK_MAIN
COST = len(packet(1)) + FRAMING_BYTES


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = tables.connect(tmp_path / "recorder.sqlite")
    yield connection
    connection.close()


# (rows recorded, ranges acknowledged, sequences played back at once)
PLAYBACK = (
    ("oldest first", [row(1), row(2), row(3)], [], [1, 2, 3]),
    ("importance before age", [row(1, priority=5), row(2, priority=0), row(3, priority=3)], [], [2, 3, 1]),
    ("sent lately waits", [row(1, sent=True), row(2)], [], [2]),
    ("acknowledged is done", [row(1), row(2), row(3), row(4)], [(1, HK, 2, 3)], [1, 4]),
    ("another boot is another packet", [row(1), row(1, boot=2)], [(2, HK, 0, 9)], [1]),
    ("a range that is not there", [row(1)], [(9, HK, 0, 2**53), (1, 0x7FF, 0, 9), (1, HK, 5, 2)], [1]),
)


@pytest.mark.parametrize(("rows", "ranges", "expected"), [p[1:] for p in PLAYBACK], ids=[p[0] for p in PLAYBACK])
def test_r16_playback_selection(
    connection: sqlite3.Connection, rows: list[Row], ranges: list[tables.Range], expected: list[int]
) -> None:
    outcome = transact(connection, rows, ranges, budget=10_000)
    assert sequences(outcome.playback) == expected
    assert {decode_tm(p).destination for p in outcome.playback} <= {DESTINATION_PLAYBACK}
    assert transact(connection, budget=10_000, now_s=100.5).playback == []


def test_what_is_not_acknowledged_comes_again_after_its_time(connection: sqlite3.Connection) -> None:
    transact(connection, [row(1), row(2)], budget=10_000)
    assert transact(connection, budget=10_000, now_s=107.9).playback == []
    transact(connection, ranges=[(1, HK, 1, 1)])
    assert sequences(transact(connection, budget=10_000, now_s=108.1).playback) == [2]


def test_what_was_sent_least_often_goes_first(connection: sqlite3.Connection) -> None:
    """One packet that nobody acknowledges does not hold up the others of its priority."""
    transact(connection, [row(1), row(2)], budget=COST)
    assert sequences(transact(connection, budget=2 * COST, now_s=120.0).playback) == [2, 1]
    transact(connection, [row(3, priority=5), row(4)])
    assert sequences(transact(connection, budget=9 * COST, now_s=140.0).playback) == [4, 2, 1, 3]


def test_r16_sent_survives_a_restart(connection: sqlite3.Connection) -> None:
    """What was in flight waits its whole time again; what was never sent goes before it."""
    transact(connection, [row(n) for n in range(1, 4)], budget=2 * COST, now_s=50.0)
    held, _, resumed_s = tables.survey(connection)
    assert (held.pending, resumed_s) == (3, 50.0)
    after = {"resumed_s": 100.0, "budget": 9 * COST}
    assert sequences(transact(connection, now_s=100.1, **after).playback) == [3]
    assert transact(connection, now_s=107.9, **after).playback == []
    assert sequences(transact(connection, now_s=108.0, **after).playback) == [1, 2]


def test_playback_keeps_its_budget(connection: sqlite3.Connection) -> None:
    transact(connection, [row(n) for n in range(1, 6)])
    assert sequences(transact(connection, budget=2 * COST + 1).playback) == [1, 2]
    assert sequences(transact(connection, budget=COST - 1).playback) == []
    assert sequences(transact(connection, budget=9 * COST).playback) == [3, 4, 5]


def test_a_packet_that_went_bad_on_disk_is_removed_and_counted(connection: sqlite3.Connection) -> None:
    transact(connection, [row(1), row(2)])
    bad = bytearray(packet(1))
    bad[30] ^= 4
    connection.execute("UPDATE packets SET packet=? WHERE sequence=1", (bytes(bad),))
    outcome = transact(connection, budget=10_000)
    assert (sequences(outcome.playback), outcome.corrupt, outcome.holding.pending) == ([2], 1, 1)


def test_survey_counts(connection: sqlite3.Connection) -> None:
    transact(connection, [row(1, sent=True), row(2, boot=7), row(3), event(4)], [(1, HK, 3, 3)], now_s=12.5)
    held, highest, last_s = tables.survey(connection)
    assert (held.pending, held.ring, highest, last_s) == (3, 1, 7, 12.5)


def test_an_identity_recorded_twice_is_one_packet(connection: sqlite3.Connection) -> None:
    outcome = transact(connection, [row(1), row(1), event(2), event(2)])
    assert (left(connection), left(connection, "events"), outcome.holding.pending) == ([1, 2], [2], 2)


@pytest.mark.parametrize("resumed_s", [0.0, 99.0])
def test_playback_reads_the_index_in_order(connection: sqlite3.Connection, resumed_s: float) -> None:
    """However much waits, nothing is sorted: the database is asked how it would answer."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    transact(connection, [row(1)], budget=COST, resumed_s=resumed_s)
    connection.set_trace_callback(None)
    (query,) = (s for s in statements if s.startswith("SELECT rowid, packet FROM packets"))
    plan = [detail for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert plan == ["SCAN packets USING INDEX packets_due"]


def test_r16_a_batch_is_one_transaction(connection: sqlite3.Connection) -> None:
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    transact(connection, [row(n) for n in range(500)])
    assert statements.count("COMMIT") == 1


OLD_SCHEMA = """
CREATE TABLE packets(
  boot INTEGER, apid INTEGER, sequence INTEGER, priority INTEGER, world_s REAL,
  sent_s REAL NULL, acknowledged INTEGER DEFAULT 0, packet BLOB,
  PRIMARY KEY(boot, apid, sequence));
CREATE INDEX packets_order ON packets(acknowledged, priority);
"""


def test_a_database_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "recorder.sqlite"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(OLD_SCHEMA)
        for sequence, apid, priority, sent_s, acknowledged in (
            (1, HK, 3, None, 0),
            (2, HK, 3, 1234.5, 0),
            (3, HK, 3, 1234.5, 1),
            (4, APID_EVENT, 1, None, 0),
        ):
            values = (5, apid, sequence, priority, 1.0, sent_s, acknowledged, packet(sequence))
            old.execute("INSERT INTO packets VALUES(?,?,?,?,?,?,?,?)", values)
        old.commit()
    for _ in "twice":
        with closing(tables.connect(path)) as connection:
            held, highest, last_s = tables.survey(connection)
            assert (held.pending, highest, last_s) == (3, 5, 0.0)
            assert [used > 0 for used in held.used_bytes] == [False, False, True, False, True, False, False]
    with closing(tables.connect(path)) as connection:
        outcome = transact(connection, [row(9)], budget=9 * COST, now_s=0.1, resumed_s=0.0)
        assert sequences(outcome.playback) == [4, 1, 9]
        assert sequences(transact(connection, budget=9 * COST, now_s=8.05).playback) == [2]


# --- the ring of events -------------------------------------------------------------------------------------


def test_r5_the_ring_keeps_the_last_thousand(connection: sqlite3.Connection) -> None:
    for start in range(0, 2500, 500):
        transact(connection, [event(n) for n in range(start, start + 500)])
    assert left(connection, "events") == list(range(1500, 2500))
    assert event_ring.count(connection) == 1000


def test_r5_the_ring_knows_no_acknowledgement_quota_or_age(connection: sqlite3.Connection) -> None:
    rows = [event(n, severity=n % 6) for n in range(100)]
    transact(connection, rows, [(1, APID_EVENT, 0, 99)], quota_mb=1e-6, ages=(0.001,) * 7, shares=(0.001,) * 7)
    transact(connection, now_s=1e9, quota_mb=1e-6, ages=(0.001,) * 7)
    assert left(connection) == []
    assert left(connection, "events") == list(range(100))


@pytest.mark.parametrize(
    ("count", "severity", "expected"),
    [(3, 0, [97, 98, 99]), (1000, 5, list(range(5, 100, 6))), (2, 4, [95, 98]), (1, 0, [99])],
)
def test_r5_replay_selects_the_newest_of_a_severity(
    connection: sqlite3.Connection, count: int, severity: int, expected: list[int]
) -> None:
    severities = [n % 6 if n != 98 else 4 for n in range(100)]
    transact(connection, [event(n, severity=s) for n, s in enumerate(severities)])
    transact(connection, ranges=[(1, APID_EVENT, 0, 99)])
    numbers = event_ring.select(connection, count, severity)
    outcome = transact(connection, budget=10**6, replay=numbers)
    assert sequences(outcome.playback) == expected
    assert {decode_tm(p).destination for p in outcome.playback} == {DESTINATION_PLAYBACK}
    assert (outcome.replay_packets, outcome.replay_done) == (len(expected), len(numbers))


def test_r5_replay_goes_before_playback_and_keeps_the_budget(connection: sqlite3.Connection) -> None:
    transact(connection, [event(n, boot=1) for n in range(5)] + [row(50 + n) for n in range(5)])
    transact(connection, ranges=[(1, APID_EVENT, 0, 4)])
    numbers = event_ring.select(connection, 1000, 0)
    first = transact(connection, budget=3 * COST, replay=numbers)
    assert (sequences(first.playback), first.replay_done) == ([0, 1, 2], 3)
    rest = transact(connection, budget=4 * COST, replay=numbers[3:])
    assert (sequences(rest.playback), rest.replay_packets, rest.replay_done) == ([3, 4, 50, 51], 2, 2)


def test_a_replay_leaves_out_what_is_gone_or_went_bad(connection: sqlite3.Connection) -> None:
    transact(connection, [event(n) for n in range(4)], [(1, APID_EVENT, 0, 9)])
    numbers = event_ring.select(connection, 1000, 0)
    connection.execute("DELETE FROM events WHERE sequence=1")
    connection.execute("UPDATE events SET packet=X'00' WHERE sequence=2")
    outcome = transact(connection, budget=10_000, replay=numbers)
    assert (sequences(outcome.playback), outcome.replay_done) == ([0, 3], 4)


# --- the thread ---------------------------------------------------------------------------------------------


def test_record_acknowledge_play_back_close_open(tmp_path: Path, eventually: Eventually) -> None:
    bench = Bench(tmp_path)
    assert bench.recorder.open() == 0
    for n in range(1, 11):
        assert bench.recorder.record(row(n, boot=3))
    assert bench.recorder.acknowledge(3, HK, 1, 4)
    eventually(lambda: bench.recorder.status().pending == 6, what="six pending")
    bench.recorder.play_back(10_000)
    eventually(lambda: sequences(bench.delivered) == [5, 6, 7, 8, 9, 10], what="playback")
    bench.recorder.record(row(11, boot=3))
    assert bench.recorder.close() == ""
    assert bench.stored() == 11
    again = Bench(tmp_path, ack_timeout_s=0.3)
    assert again.recorder.open() == 3
    assert again.recorder.status().pending == 7
    again.recorder.play_back(10_000)
    eventually(lambda: sequences(again.delivered) == [11], what="what was never sent goes first")
    again.recorder.record(row(12, boot=4, sent=True))

    def asked() -> bool:
        again.recorder.play_back(10_000)
        return len(again.delivered) > 1

    eventually(asked, what="the rest after the timeout")
    assert sequences(again.delivered)[:7] == [11, 5, 6, 7, 8, 9, 10]
    assert again.recorder.close() == ""


def test_r5_replay_by_the_thread_also_of_an_earlier_boot(tmp_path: Path, eventually: Eventually) -> None:
    first = Bench(tmp_path)
    first.recorder.open()
    for n in range(20):
        first.recorder.record(event(n, severity=n % 6, boot=1))
    assert first.recorder.close() == ""
    bench = Bench(tmp_path)
    bench.recorder.open()
    bench.recorder.record(event(0, severity=4, boot=2))
    bench.recorder.acknowledge(1, APID_EVENT, 0, 99)
    bench.recorder.acknowledge(2, APID_EVENT, 0, 99)
    eventually(lambda: bench.recorder.status().ring == 21 and bench.recorder.status().pending == 0)
    bench.recorder.replay(Replay(77, 3, Severity.CRITICAL))
    eventually(lambda: bench.recorder.status().replay_left == 3, what="selected, and waiting for a budget")
    assert bench.recorder.status().replayed == 0
    bench.recorder.play_back(2 * COST)
    eventually(lambda: bench.recorder.status().replay_left == 1, what="as much as the budget pays for")
    bench.recorder.play_back(2 * COST)
    eventually(lambda: bench.recorder.status().replayed == 77, what="done")
    eventually(lambda: sequences(bench.delivered) == [16, 17, 0], what="delivered")
    assert bench.recorder.status().replayed_count == 3
    assert bench.recorder.close() == ""


def test_a_replay_of_nothing_is_done_at_once(tmp_path: Path, eventually: Eventually) -> None:
    bench = Bench(tmp_path)
    bench.recorder.open()
    bench.recorder.replay(Replay(5, 10, Severity.FATAL))
    eventually(lambda: bench.recorder.status().replayed == 5)
    assert (bench.recorder.status().replayed_count, bench.recorder.status().replay_left) == (0, 0)
    bench.recorder.close()


def test_files_are_private(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.recorder.open()
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0
    bench.recorder.close()


def test_queue_is_bounded_and_drops_are_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    # Before the thread runs nothing leaves the queue.
    outcomes = [bench.recorder.record(row(n)) for n in range(QUEUE_PACKETS_MAX + 3)]
    assert outcomes.count(False) == 3
    assert bench.recorder.status().dropped == 3
    bench.recorder.open()
    assert bench.recorder.close() == ""
    assert bench.stored() == QUEUE_PACKETS_MAX


def test_r16_a_full_queue_makes_room_for_what_is_more_important(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for n in range(QUEUE_PACKETS_MAX):
        bench.recorder.record(row(n, priority=5 if n % 2 else 3))
    assert bench.recorder.record(row(0, priority=0))
    assert bench.recorder.record(row(1, priority=0))
    assert not bench.recorder.record(row(99_999, priority=5))
    assert bench.recorder.status().dropped == 3
    bench.recorder.open()
    bench.recorder.close()
    with closing(sqlite3.connect(bench.path)) as connection:
        counts = dict(connection.execute("SELECT priority, COUNT(*) FROM packets GROUP BY priority"))
    assert counts == {0: 2, 3: QUEUE_PACKETS_MAX // 2, 5: QUEUE_PACKETS_MAX // 2 - 2}


def test_a_refusing_disk_is_a_fault_and_nothing_is_lost_when_it_passes(
    tmp_path: Path, eventually: Eventually
) -> None:
    # A folder in the place of the database is refused by SQLite as a disk that cannot be opened.
    bench = Bench(tmp_path)
    bench.path.mkdir()
    assert bench.recorder.open() == 0
    for n in range(5):
        bench.recorder.record(row(n))
    eventually(lambda: "recorder.sqlite" in bench.recorder.status().fault, what="fault told")
    before = bench.recorder.executions
    eventually(lambda: bench.recorder.executions > before, what="a try that failed")
    assert bench.recorder.status().pending == 5
    bench.path.rmdir()
    eventually(lambda: bench.recorder.executions > before + 3 and not bench.recorder.status().fault, 15.0, "healed")
    assert bench.recorder.close() == ""
    assert bench.stored() == 5


def test_closing_on_a_bad_disk_tells_what_is_lost(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.path.mkdir()
    bench.recorder.open()
    bench.recorder.record(row(1))
    assert "1 packets were not recorded" in bench.recorder.close()


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_database_is_set_aside(tmp_path: Path, eventually: Eventually, content: bytes) -> None:
    bench = Bench(tmp_path)
    bench.path.write_bytes(content)
    bench.recorder.open()
    bench.recorder.record(event(1))
    assert "set aside as recorder.sqlite.damaged-1" in bench.recorder.status().fault
    eventually(lambda: (bench.stored(), bench.stored("events")) == (1, 1))
    assert bench.recorder.close() == ""
    assert (tmp_path / "recorder.sqlite.damaged-1").read_bytes() == content
