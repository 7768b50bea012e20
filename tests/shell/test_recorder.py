"""The recorder: what is kept, what is played back, what is shed, and what a bad disk does."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flightsw.link.dictionary import DESTINATION_PLAYBACK
from flightsw.link.packet import TmPacket, decode_tm, encode_tm
from flightsw.shell import recorder_tables as tables
from flightsw.shell.recorder import QUEUE_PACKETS_MAX, Recorder
from flightsw.shell.recorder_tables import Row

Eventually = Callable[..., None]
PLENTY = 10**9


def packet(sequence: int, size: int = 40) -> bytes:
    return encode_tm(
        TmPacket(
            apid=0x21,
            sequence_count=sequence,
            service=3,
            subtype=25,
            message_count=sequence,
            destination=0,
            time_quality=1,
            tai_s=2e9 + sequence,
            body=bytes([sequence % 251]) * size,
        )
    )


def row(sequence: int, *, priority: int = 3, sent_s: float | None = None, boot: int = 1, size: int = 40) -> Row:
    return Row(boot, 0x21, sequence, priority, float(sequence), sent_s, packet(sequence, size))


def sequences(packets: list[bytes]) -> list[int]:
    return [decode_tm(p).sequence_count for p in packets]


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = tables.connect(tmp_path / "recorder.sqlite")
    yield connection
    connection.close()


def transact(connection: sqlite3.Connection, rows: list[Row] = [], ranges: list[tables.Range] = [], **kw: float):  # noqa: B006
    values = {"budget_bytes": 0, "now_s": 100.0, "ack_timeout_s": 8.0, "quota_bytes": PLENTY} | kw
    budget_bytes = int(values.pop("budget_bytes"))
    return tables.transact(connection, rows, ranges, budget_bytes, **values)  # type: ignore[arg-type]


# (rows recorded, ranges acknowledged, sequences played back at now_s = 100 with an ack timeout of 8 s)
PLAYBACK = (
    ("oldest first", [row(1), row(2), row(3)], [], [1, 2, 3]),
    ("importance before age", [row(1, priority=5), row(2, priority=0), row(3, priority=3)], [], [2, 3, 1]),
    ("sent lately waits", [row(1, sent_s=93.0), row(2)], [], [2]),
    ("sent and not acknowledged comes again", [row(1, sent_s=91.0), row(2)], [], [1, 2]),
    ("acknowledged is done", [row(1), row(2), row(3), row(4)], [(1, 0x21, 2, 3)], [1, 4]),
    ("another boot is another packet", [row(1), row(1, boot=2)], [(2, 0x21, 0, 9)], [1]),
    ("a range that is not there", [row(1)], [(9, 0x21, 0, 2**53), (1, 0x22, 0, 9), (1, 0x21, 5, 2)], [1]),
)


@pytest.mark.parametrize(("rows", "ranges", "expected"), [p[1:] for p in PLAYBACK], ids=[p[0] for p in PLAYBACK])
def test_playback_selection(
    connection: sqlite3.Connection, rows: list[Row], ranges: list[tables.Range], expected: list[int]
) -> None:
    outcome = transact(connection, rows, ranges, budget_bytes=10_000)
    assert sequences(outcome.playback) == expected
    assert {decode_tm(p).destination for p in outcome.playback} <= {DESTINATION_PLAYBACK}
    assert transact(connection, budget_bytes=10_000, now_s=100.5).playback == []


def test_what_is_not_acknowledged_comes_again_after_its_time(connection: sqlite3.Connection) -> None:
    transact(connection, [row(1), row(2)], budget_bytes=10_000)
    assert transact(connection, budget_bytes=10_000, now_s=107.9).playback == []
    transact(connection, ranges=[(1, 0x21, 1, 1)])
    assert sequences(transact(connection, budget_bytes=10_000, now_s=108.1).playback) == [2]


def test_playback_keeps_its_budget(connection: sqlite3.Connection) -> None:
    size = len(packet(1))
    transact(connection, [row(n) for n in range(1, 6)])
    assert sequences(transact(connection, budget_bytes=2 * size + 1).playback) == [1, 2]
    assert sequences(transact(connection, budget_bytes=size - 1).playback) == []
    assert sequences(transact(connection, budget_bytes=9 * size).playback) == [3, 4, 5]


def test_a_packet_that_went_bad_on_disk_is_removed_and_counted(connection: sqlite3.Connection) -> None:
    bad = bytearray(packet(1))
    bad[30] ^= 4
    transact(connection, [Row(1, 0x21, 1, 3, 1.0, None, bytes(bad)), row(2)])
    outcome = transact(connection, budget_bytes=10_000)
    assert (sequences(outcome.playback), outcome.corrupt, outcome.pending_change) == ([2], 1, -1)


def test_quota_sheds_acknowledged_first_then_least_important_then_oldest(connection: sqlite3.Connection) -> None:
    acknowledged = [row(n, priority=0, size=900) for n in range(128)]
    important = [row(n, priority=1, size=900) for n in range(128, 256)]
    lesser = [row(n, priority=5, size=900) for n in range(256, 640)]
    transact(connection, acknowledged + important + lesser, [(1, 0x21, 0, 127)])
    left = lambda: [s for (s,) in connection.execute("SELECT sequence FROM packets ORDER BY sequence")]  # noqa: E731
    full = tables.used_bytes(connection)
    outcome = transact(connection, quota_bytes=full - 1)
    assert (outcome.shed, outcome.pending_change) == (0, 0)
    assert left() == list(range(128, 640))
    outcome = transact(connection, quota_bytes=tables.used_bytes(connection) - 1)
    assert (outcome.shed, outcome.pending_change) == (128, -128)
    assert left() == [*range(128, 256), *range(384, 640)]
    transact(connection, quota_bytes=1)
    assert left() == []


def test_survey_counts_and_forgets_send_times(connection: sqlite3.Connection) -> None:
    transact(connection, [row(1, sent_s=99.0), row(2, boot=7), row(3)], [(1, 0x21, 3, 3)])
    assert tables.survey(connection) == (2, 7)
    assert sequences(transact(connection, budget_bytes=10_000).playback) == [1, 2]


def test_an_identity_recorded_twice_is_one_packet(connection: sqlite3.Connection) -> None:
    transact(connection, [row(1), row(1)])
    assert connection.execute("SELECT COUNT(*) FROM packets").fetchone() == (1,)


class Bench:
    """A recorder on a folder, and what it delivered."""

    def __init__(self, folder: Path, quota_mb: float = 100.0) -> None:
        self.path = folder / "recorder.sqlite"
        self.delivered: list[bytes] = []
        self.recorder = Recorder(
            self.path, quota_mb=quota_mb, ack_timeout_s=8.0, commit_interval_s=0.01, deliver=self.delivered.extend
        )

    def stored(self) -> int:
        """Packets in the file as another process reads it; −1 while it cannot be read."""
        try:
            with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
                return int(connection.execute("SELECT COUNT(*) FROM packets").fetchone()[0])
        except sqlite3.Error:
            return -1


def test_record_acknowledge_play_back_close_open(tmp_path: Path, eventually: Eventually) -> None:
    bench = Bench(tmp_path)
    assert bench.recorder.open() == 0
    for n in range(1, 11):
        assert bench.recorder.record(row(n, boot=3))
    assert bench.recorder.acknowledge(3, 0x21, 1, 4)
    eventually(lambda: bench.recorder.status().pending == 6, what="six pending")
    bench.recorder.play_back(10_000)
    eventually(lambda: sequences(bench.delivered) == [5, 6, 7, 8, 9, 10], what="playback")
    bench.recorder.record(row(11, boot=3))
    assert bench.recorder.close() == ""
    assert bench.stored() == 11
    again = Bench(tmp_path)
    assert again.recorder.open() == 3
    assert again.recorder.status().pending == 7
    assert again.recorder.close() == ""


def test_file_is_private(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.recorder.open()
    bench.recorder.close()
    assert bench.path.stat().st_mode & 0o077 == 0


def test_queue_is_bounded_and_drops_are_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    # Before the thread runs nothing leaves the queue.
    outcomes = [bench.recorder.record(row(n)) for n in range(QUEUE_PACKETS_MAX + 3)]
    assert outcomes.count(False) == 3
    assert bench.recorder.status().dropped == 3
    bench.recorder.open()
    assert bench.recorder.close() == ""
    assert bench.stored() == QUEUE_PACKETS_MAX


def test_quota_holds_while_it_runs(tmp_path: Path, eventually: Eventually) -> None:
    bench = Bench(tmp_path, quota_mb=0.25)
    bench.recorder.open()
    for start in range(0, 2000, 250):
        for n in range(start, start + 250):
            bench.recorder.record(row(n, size=900))
        eventually(lambda s=start: bench.recorder.status().shed > 0 or s < 500, what="shed")
    bench.recorder.close()
    with closing(sqlite3.connect(bench.path)) as connection:
        assert tables.used_bytes(connection) <= 250_000
        newest = connection.execute("SELECT MAX(sequence) FROM packets").fetchone()[0]
    assert newest == 1999


def test_a_full_disk_is_a_fault_and_nothing_is_lost_when_it_passes(tmp_path: Path, eventually: Eventually) -> None:
    # A folder in the place of the database is refused by SQLite as a disk that cannot be opened.
    bench = Bench(tmp_path)
    bench.path.mkdir()
    assert bench.recorder.open() == 0
    for n in range(5):
        bench.recorder.record(row(n))
    eventually(lambda: "recorder.sqlite" in bench.recorder.status().fault, what="fault told")
    before = bench.recorder.executions
    bench.path.rmdir()
    eventually(lambda: bench.recorder.executions > before + 2 and not bench.recorder.status().fault, 15.0, "healed")
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
    bench.recorder.record(row(1))
    assert "set aside as recorder.sqlite.damaged-1" in bench.recorder.status().fault
    eventually(lambda: bench.stored() == 1)
    assert bench.recorder.close() == ""
    assert (tmp_path / "recorder.sqlite.damaged-1").read_bytes() == content
