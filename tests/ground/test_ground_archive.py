"""The archive on a real file: identity, order, tolerance, and what it says when it cannot write."""

import math
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from spacecraft_double import SpacecraftDouble

from flightsw.link.bodies import EventBody, VerificationBody, pack_body
from flightsw.link.codec import decode_telemetry, pack_housekeeping
from flightsw.link.dictionary import (
    APID_EVENT,
    APID_HK_MAIN,
    APID_VERIFICATION,
    DESTINATION_PLAYBACK,
    DICTIONARY_HASH,
    GROUP_BY_NAME,
)
from flightsw.link.packet import redirect
from flightsw.link.schema import HousekeepingGroup
from ground.archive import PENDING_PACKETS_MAX, Archive, Received
from ground.client import ArchiveReader
from ground.errors import GroundError
from tests.background import Background


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "archive.sqlite"


@pytest.fixture
def archive(path: Path) -> Iterator[Archive]:
    archive = Archive(path)
    yield archive
    archive.close()


def received(packet: bytes, at_utc_s: float = 1.8e9) -> Received:
    return Received(decode_telemetry(packet), packet, at_utc_s)


def file(archive: Archive, *packets: bytes) -> tuple[int, int]:
    for packet in packets:
        assert archive.add(received(packet))
    new, duplicates = archive.commit(0.0)
    return len(new), len(duplicates)


def test_first_copy_is_kept_and_others_counted(udp_craft: SpacecraftDouble, archive: Archive, path: Path) -> None:
    identity = udp_craft.housekeeping(send=False, eps__soc_fraction=0.8)
    live = udp_craft.recorder[identity]
    late = redirect(live, DESTINATION_PLAYBACK)
    assert file(archive, live, late) == (1, 1)
    assert file(archive, late) == (0, 1)
    with ArchiveReader(path) as reader:
        assert [tuple(row) for row in reader.identities()] == [(*identity, False)]
        assert reader.packet(*identity) == live
        assert reader.counter("duplicates") == 2


def test_playback_out_of_order_is_filed_by_mission_time(
    udp_craft: SpacecraftDouble, archive: Archive, path: Path
) -> None:
    packets = []
    for count in range(20):
        udp_craft.world_s = 1000.0 + count
        packets.append(udp_craft.recorder[udp_craft.housekeeping(send=False, eps__soc_fraction=count / 100)])
    order = [packets[(7 * count) % 20] for count in range(20)]
    assert file(archive, *order[:10]) == (10, 0)
    with ArchiveReader(path) as reader:
        assert sum(last - first + 1 for _, _, first, last in reader.gaps()) == archive.streams()[0].missing > 0
    assert file(archive, *order[10:]) == (10, 0)
    with ArchiveReader(path) as reader:
        series = reader.series("eps.soc_fraction")
        assert series.world_s == [1000.0 + count for count in range(20)]
        assert series.value == [count / 100 for count in range(20)]
        assert reader.series("eps.soc_fraction", since=1005.0, until=1007.0).value == [0.05, 0.06, 0.07]
        assert reader.series("eps.soc_fraction", last=2).value == [0.18, 0.19]
        assert reader.gaps() == []
        assert [row.world_s for row in reader.packets(last=3)] == [1017.0, 1018.0, 1019.0]


LENGTHS = (
    ("older dictionary on board", 9, [0.5], math.nan),
    ("newer dictionary on board", 60, [0.5], 7.0),
)


@pytest.mark.parametrize(
    ("length", "soc", "pending"), [case[1:] for case in LENGTHS], ids=[case[0] for case in LENGTHS]
)
def test_tolerant_reading(
    udp_craft: SpacecraftDouble, archive: Archive, path: Path, length: int, soc: list[float], pending: float
) -> None:
    group = GROUP_BY_NAME["main"]
    names = [*group.parameters, *(f"future.{n}" for n in range(100))][:length]
    values = {
        "boot_count": 1.0,
        "packet_sequence": 1.0,
        "world_s": 9.0,
        "eps.soc_fraction": 0.5,
        "recorder.pending": 7.0,
    }
    other = HousekeepingGroup(
        sid=2, name="main", apid=APID_HK_MAIN, interval_s=1, interval_min_s=1, interval_max_s=1, priority=1,
        parameters=tuple(names), text="",
    )  # fmt: skip
    body = pack_housekeeping(other, [values.get(name, math.nan) for name in names])
    identity = udp_craft.emit(APID_HK_MAIN, 3, 25, 1, body, send=False)
    assert file(archive, udp_craft.recorder[identity]) == (1, 0)
    with ArchiveReader(path) as reader:
        assert reader.series("eps.soc_fraction").value == soc
        assert reader.series("recorder.pending").value in ([], [pending])


def test_unknown_apid_event_and_huge_numbers_are_filed(
    udp_craft: SpacecraftDouble, archive: Archive, path: Path
) -> None:
    huge = 2**64 - 1
    unknown = EventBody(1, 1, math.inf, huge, huge, {"what": "new\x1b[2J"})
    stage = VerificationBody(1, 1, 5.0, huge, huge, huge, huge, "?")
    packets = [
        udp_craft.recorder[udp_craft.emit(APID_EVENT, 5, 1, 1, pack_body(unknown), send=False)],
        udp_craft.recorder[udp_craft.emit(APID_VERIFICATION, 1, 1, 1, pack_body(stage), send=False)],
        udp_craft.recorder[udp_craft.emit(0x3F0, 8, 1, 1, pack_body(unknown), send=False)],
    ]
    assert file(archive, *packets) == (3, 0)
    with ArchiveReader(path) as reader:
        (event,) = reader.events()
        assert event.text.isprintable()
        assert "not in this dictionary" in event.text
        assert math.isnan(event.world_s)
        assert len(reader.verifications()) == 1
        assert len(reader.packets()) == 3


def test_reply_in_parts(udp_craft: SpacecraftDouble, archive: Archive, path: Path) -> None:
    text = "".join(chr(97 + n % 26) for n in range(300))
    udp_craft.reply(5, "talk", text, parts=3, send=False)
    packets = [udp_craft.recorder[identity] for identity in sorted(udp_craft.recorder)]
    file(archive, packets[2], packets[0])
    with ArchiveReader(path) as reader:
        assert [reply.complete for reply in reader.replies()] == [False]
    file(archive, packets[1])
    with ArchiveReader(path) as reader:
        (reply,) = reader.replies()
        assert (reply.text, reply.complete, reply.command) == (text, True, 5)


def test_a_full_disk_archives_nothing_and_recovers(
    udp_craft: SpacecraftDouble, archive: Archive, path: Path
) -> None:
    """A page limit of SQLite's own refuses like a full disk; the process test uses the kernel's limit."""
    file(archive, udp_craft.recorder[udp_craft.housekeeping(send=False)])
    archive.limit_pages(1)
    packets = [udp_craft.recorder[udp_craft.housekeeping(send=False)] for _ in range(400)]
    for packet in packets:
        assert archive.add(received(packet))
    assert archive.commit(1.0) == ([], [])
    assert "full" in archive.fault
    assert archive.pending == 400
    assert archive.commit(1.5) == ([], [])  # Not before the back-off.
    archive.limit_pages(1_000_000)
    assert tuple(map(len, archive.commit(10.0))) == (400, 0)
    assert archive.fault == ""


def test_the_queue_is_bounded(udp_craft: SpacecraftDouble, archive: Archive) -> None:
    one = received(udp_craft.recorder[udp_craft.housekeeping(send=False)])
    taken = sum(archive.add(one) for _ in range(PENDING_PACKETS_MAX + 10))
    assert (taken, archive.unarchived) == (PENDING_PACKETS_MAX, 10)


def test_command_ids_never_repeat(path: Path) -> None:
    given: list[int] = []
    # The clock stands still, then steps back: blocks must not.
    for clock in (5_000_000, 5_000_000, 1_000_000, 9_000_000):
        archive = Archive(path)
        given += archive.reserve_command_ids(clock)[:: 2**15]
        archive.close()
    assert given == sorted(set(given))
    assert given[-1] >= 9_000_000


def test_one_writer(archive: Archive, path: Path) -> None:
    with pytest.raises(GroundError, match="another station writes it"):
        Archive(path)


def spoil_schema(path: Path) -> None:
    Archive(path).close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE meta SET value=99 WHERE key='schema_version'")
    database.close()


def other_database(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE cats(name)")
    database.close()


BAD_FILES = (
    (
        "text",
        lambda path: path.write_text("not a database, and long enough to be read as a header"),
        "not a database",
    ),
    ("other schema", spoil_schema, "schema 99"),
    ("other database", other_database, "some other SQLite file|no such table"),
    ("directory", lambda path: path.mkdir(), "directory|no archive"),
)


@pytest.mark.parametrize(("spoil", "words"), [case[1:] for case in BAD_FILES], ids=[case[0] for case in BAD_FILES])
def test_bad_files_are_named_in_one_line(path: Path, spoil: object, words: str) -> None:
    spoil(path)  # type: ignore[operator]
    for opener in (Archive, ArchiveReader):
        with pytest.raises(GroundError, match=words) as caught:
            opener(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_archive_of_another_dictionary_says_so(archive: Archive, path: Path) -> None:
    with ArchiveReader(path) as reader:
        assert reader.dictionaries() == [DICTIONARY_HASH]
        assert reader.notices() == []
    archive.note("INSERT INTO dictionaries VALUES ('0123456789abcdef', 1.0, '{}')")
    archive.commit(0.0)
    with ArchiveReader(path) as reader:
        assert "0123456789abcdef" in reader.notices()[0]


def test_reading_while_writing(udp_craft: SpacecraftDouble, archive: Archive, path: Path) -> None:
    """A reader sees whole commits only: packets and the events in them together."""
    done = threading.Event()
    torn: list[tuple[int, int]] = []

    def read() -> None:
        with ArchiveReader(path) as reader:
            while not done.is_set():
                events, packets = len(reader.events()), len(reader.identities())
                torn.extend([(events, packets)] if events > packets else [])

    with Background(read, done.set):
        for number in range(30):
            file(archive, udp_craft.recorder[udp_craft.event("SHUTDOWN", send=False, reason=str(number))])
    assert torn == []
