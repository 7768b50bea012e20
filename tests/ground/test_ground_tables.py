"""Tables over the link: loaded through losses, dumped and put together again, filed once."""

import sqlite3
import threading
import zlib

import pytest
from conftest import Ground
from hypothesis import given
from hypothesis import strategies as st
from spacecraft_double import SpacecraftDouble

from flightsw.link import sequence
from flightsw.link.bodies import VerificationBody
from flightsw.link.dictionary import TELECOMMAND_BY_NAME
from flightsw.link.sequence import Sequence, make_step
from flightsw.link.tables import PIECE_BYTES_MAX, TABLE_BY_NAME
from ground import archive
from ground.archive import Archive
from ground.client import ArchiveReader, ExitCode, GroundError, LoadProgress
from ground.table_reader import Piece, put_together
from tests.background import Background

CODE = TABLE_BY_NAME["rts05"].code


def image_of(steps: int, name: str = "long") -> bytes:
    """A sequence of so many steps, about 100 octets each."""
    command = TELECOMMAND_BY_NAME["job.infer"]
    each = [make_step(n, command, {"job": "talk", "prompt": f"Prompt number {n}"}) for n in range(steps)]
    return sequence.encode(
        Sequence(
            kind="relative", name=name, on_failure="abort", reference="dispatch", wait_for_time=False,
            steps=tuple(each),
        )
    )  # fmt: skip


def test_a_table_is_loaded_and_dumped_again(station: Ground, craft: SpacecraftDouble) -> None:
    craft.housekeeping()
    image, seen = image_of(60), []
    result = station.client.load_table("rts05", image, progress=seen.append)
    assert craft.tables.active["rts05"] == image
    assert (result.size_bytes, result.crc32, result.resent) == (len(image), zlib.crc32(image), 0)
    assert (result.validated, result.activated) == ("rts05 is valid", "rts05 active")
    confirmed = [progress.confirmed_bytes for progress in seen]
    assert confirmed == sorted(confirmed)
    assert confirmed[-1] == len(image)
    come: list[tuple[int, int]] = []
    assert station.client.dump_table("rts05", progress=lambda *octets: come.append(octets)) == image
    assert come[-1] == (len(image), len(image))
    with ArchiveReader(station.archive) as reader:
        command = next(row for row in reader.commands() if row.name == "table.data")
        assert command.arguments == {"table": "rts05", "offset": 0, "data": "800 octets"}


def test_validated_but_not_activated(udp_station: Ground, udp_craft: SpacecraftDouble) -> None:
    result = udp_station.client.load_table("rts05", image_of(2), activate="")
    assert result.activated == ""
    assert "rts05" not in udp_craft.tables.active
    assert udp_craft.tables.loads["rts05"].validated


def test_lost_telecommands_and_reports_are_made_good(udp_station: Ground, udp_craft: SpacecraftDouble) -> None:
    """Each piece is lost once on its way up, and some reports on their way down; the image still comes whole."""
    seen: set[tuple[str, object]] = set()
    count = 0

    def lose(telecommand, args):
        key = (telecommand.name, args.get("offset"))
        lost = key not in seen
        seen.add(key)
        return lost and telecommand.name == "table.data"

    def lose_report(report):
        nonlocal count
        count += 1
        return count % 3 == 0

    udp_craft.housekeeping()
    udp_craft.ignore, udp_craft.lose_reports = lose, lose_report
    enough = threading.Event()

    def keep_alive() -> None:
        while not enough.wait(0.2):
            udp_craft.housekeeping()
            udp_craft.play_back()

    image = image_of(30)
    with Background(keep_alive, enough.set):
        udp_station.client.load_table("rts05", image)
    assert udp_craft.tables.active["rts05"] == image
    assert udp_craft.tables.pieces_received == -(-len(image) // PIECE_BYTES_MAX), "each was executed once"


def test_pieces_without_any_report_are_sent_again(
    udp_station: Ground, udp_craft: SpacecraftDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ground.loading.PIECE_TIMEOUT_S", 0.3)
    udp_craft.housekeeping()
    lost: set[int] = set()

    def lose(telecommand, args):
        if telecommand.name != "table.data" or args["offset"] in lost:
            return False
        if len(lost) < 2:
            lost.add(args["offset"])
        return args["offset"] in lost

    udp_craft.ignore = lose
    image = image_of(40)
    result = udp_station.client.load_table("rts05", image)
    assert result.resent == 2
    assert udp_craft.tables.active["rts05"] == image


def test_a_spacecraft_that_restarts_in_between_gets_it_anew(
    udp_station: Ground, udp_craft: SpacecraftDouble
) -> None:
    udp_craft.housekeeping()
    pieces = 0

    def restart(telecommand, args):
        nonlocal pieces
        pieces += telecommand.name == "table.data"
        if pieces == 3:
            udp_craft.tables.loads.clear()
            pieces += 1
        return False

    udp_craft.ignore = restart
    image = image_of(40)
    udp_station.client.load_table("rts05", image)
    assert udp_craft.tables.active["rts05"] == image


def test_without_contact_it_waits_and_then_gives_up(
    udp_station: Ground, udp_craft: SpacecraftDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ground.loading.PIECE_TIMEOUT_S", 0.2)
    udp_craft.deaf = True
    seen: list[LoadProgress] = []
    with pytest.raises(GroundError, match=r"^rts05: table.begin timeout: no report") as caught:
        udp_station.client.load_table("rts05", image_of(2), progress=seen.append, patience_s=0.6)
    assert caught.value.exit_code == ExitCode.NO_CONTACT
    assert any(progress.silent for progress in seen)


def test_a_pass_that_ends_and_comes_back_is_only_a_pause(
    udp_station: Ground, udp_craft: SpacecraftDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ground.loading.PIECE_TIMEOUT_S", 0.2)
    monkeypatch.setattr("ground.monitor.CONTACT_S", 0.3)
    monkeypatch.setattr("ground.station.CONTACT_S", 0.3)
    udp_craft.housekeeping()
    image = image_of(120)

    def follow(progress: LoadProgress) -> None:
        if progress.confirmed_bytes == 2 * PIECE_BYTES_MAX and not progress.resent:
            udp_craft.deaf = True
        if progress.silent and udp_craft.deaf:
            udp_craft.deaf = False
            udp_craft.housekeeping()

    result = udp_station.client.load_table("rts05", image, progress=follow)
    assert result.resent > 0
    assert udp_craft.tables.active["rts05"] == image


def test_what_the_spacecraft_refuses_it_explains(udp_station: Ground, udp_craft: SpacecraftDouble) -> None:
    before = dict(udp_craft.tables.active)
    with pytest.raises(
        GroundError, match=r"^rts05: table.validate failed: INVALID_TABLE: rts05: is no image"
    ) as caught:
        udp_station.client.load_table("rts05", b"rubbish")
    assert caught.value.exit_code == ExitCode.FAILED
    assert udp_craft.tables.active == before
    with pytest.raises(GroundError, match="table = 'resets' is not one of") as caught:
        udp_station.client.load_table("resets", b"rubbish")
    assert caught.value.exit_code == ExitCode.USAGE


# Dumps.


def test_an_empty_table_is_an_empty_image(udp_station: Ground, udp_craft: SpacecraftDouble) -> None:
    udp_craft.housekeeping()
    assert udp_station.client.dump_table("rts09", timeout_s=10) == b""


def test_lost_pieces_of_a_dump_come_by_playback(udp_station: Ground, udp_craft: SpacecraftDouble) -> None:
    image = udp_craft.tables.active["rts05"] = image_of(40)
    udp_craft.housekeeping()
    udp_craft.tables.lose_piece = lambda offset: offset >= PIECE_BYTES_MAX
    come: list[int] = []

    def follow(received: int, total: int) -> None:
        come.append(received)
        if len(come) == 2:
            udp_craft.play_back()
            udp_craft.play_back()

    assert udp_station.client.dump_table("rts05", progress=follow, timeout_s=20) == image
    assert come[0] == PIECE_BYTES_MAX


def test_a_dump_that_stays_incomplete_says_how_far_it_came(
    udp_station: Ground, udp_craft: SpacecraftDouble
) -> None:
    udp_craft.tables.active["rts05"] = image_of(40)
    udp_craft.housekeeping()
    udp_craft.tables.lose_piece = lambda offset: offset >= PIECE_BYTES_MAX
    with pytest.raises(GroundError, match=r"rts05: 800 of \d+ octets of the dump came in 0.5 s") as caught:
        udp_station.client.dump_table("rts05", timeout_s=0.5)
    assert caught.value.exit_code == ExitCode.NO_CONTACT


def test_an_older_dump_is_not_taken_for_the_new_one(udp_station: Ground, udp_craft: SpacecraftDouble) -> None:
    udp_craft.tables.active["rts05"] = image_of(30, "old")
    udp_craft.housekeeping()
    udp_craft.tables.lose_piece = lambda offset: offset >= PIECE_BYTES_MAX
    with pytest.raises(GroundError):
        udp_station.client.dump_table("rts05", timeout_s=0.5)
    new = udp_craft.tables.active["rts05"] = image_of(20, "new")
    udp_craft.world_s += 10.0
    udp_craft.tables.lose_piece = lambda offset: False
    udp_craft.play_back()
    udp_craft.housekeeping()
    assert udp_station.client.dump_table("rts05", timeout_s=10) == new
    with ArchiveReader(udp_station.archive) as reader:
        assert [dump.image for dump in reader.dumps(CODE)] == [image_of(30, "old"), new]


def test_a_dump_during_which_mission_time_is_set_back_is_whole(
    udp_station: Ground, udp_craft: SpacecraftDouble
) -> None:
    """As in a real one: what is older than the step, pieces, and a report that is newer than they are."""
    image = udp_craft.tables.active["rts05"] = image_of(30)
    udp_craft.housekeeping()
    assert udp_craft.wait_for(lambda: udp_craft.acknowledged), "the station knows mission time"

    def step(offset: int) -> bool:
        udp_craft.world_s -= 5.0 if offset == PIECE_BYTES_MAX else 0.0
        return False

    def pass_time(report: VerificationBody) -> bool:
        udp_craft.world_s += 0.1
        return False

    udp_craft.tables.lose_piece, udp_craft.drop_reports = step, pass_time
    assert udp_station.client.dump_table("rts05", timeout_s=10) == image


@given(st.data())
def test_pieces_in_any_order_and_number_make_the_image(data):
    images = [data.draw(st.binary(max_size=40)) for _ in range(2)]
    pieces = []
    for image in images:
        crc32 = zlib.crc32(image)
        for offset in range(0, max(1, len(image)), 7):
            piece = Piece(1, 1, 5.0, offset, len(image), crc32, image[offset : offset + 7])
            pieces += [piece] * data.draw(st.integers(1, 2))
    junk = [
        Piece(1, 1, 9.0, 90, 10, 0, b"x"),
        Piece(1, 1, 9.0, -1, 10, 0, b"x"),
        Piece(1, 1, 9.0, 0, 2**40, 0, b"x"),
    ]
    dumps = put_together(data.draw(st.permutations(pieces + junk)))
    assert {dump.image for dump in dumps} == set(images)


def test_a_damaged_piece_is_no_image():
    image = bytes(range(20))
    (dump,) = put_together([Piece(1, 1, 5.0, 0, 20, zlib.crc32(image), image[:19] + b"\xff")])
    assert (dump.received, dump.image) == (20, None)


def test_pieces_are_filed_once_and_survive(station: Ground, craft: SpacecraftDouble) -> None:
    image = bytes(1000)
    for offset in (800, 0):
        craft.table_piece(CODE, offset, 1000, zlib.crc32(image), image[offset : offset + 800], send=offset == 0)
    assert craft.wait_for(lambda: len(craft.acknowledged) == 1)
    craft.play_back([(1, 0x14, 1), (1, 0x14, 1)])
    assert craft.wait_for(lambda: len(craft.acknowledged) == 2)
    station.stop()
    station.start()
    with ArchiveReader(station.archive) as reader:
        (dump,) = reader.dumps(CODE)
    assert dump.image == image
    assert station.client.status().streams[-1].name == "table"


# Archives of an older schema.


@pytest.fixture
def old_archive(tmp_path):
    path = tmp_path / "old.sqlite"
    Archive(path).close()
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE table_pieces")
        database.execute("UPDATE meta SET value=1 WHERE key='schema_version'")
    database.close()
    return path


def test_an_older_archive_opens_and_a_station_brings_it_up(old_archive):
    with ArchiveReader(old_archive) as reader:
        assert reader.schema == 1
        assert reader.dumps(CODE) == []
        assert reader.events() == []
    Archive(old_archive).close()
    with ArchiveReader(old_archive) as reader:
        assert reader.schema == archive.SCHEMA_VERSION
        assert reader.dumps(CODE) == []


@pytest.mark.parametrize("version", [0, 3, "x"])
def test_an_archive_of_another_schema_is_refused(old_archive, version):
    with sqlite3.connect(old_archive) as database:
        database.execute("UPDATE meta SET value=? WHERE key='schema_version'", (version,))
    database.close()
    with pytest.raises(GroundError, match=f"has schema {version}, this program reads 1 to 2"):
        ArchiveReader(old_archive)
    with pytest.raises(GroundError, match=f"has schema {version}, this program writes 2"):
        Archive(old_archive)
