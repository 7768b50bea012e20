"""R7: tables from the ground: staged, validated, activated; every refusal has a code, says why, changes nothing."""

import zlib

import pytest
from core_flight import telecommand
from core_tables import Operator, parameters
from msgspec.structs import replace

from flightsw.core import executive, table_kinds, tables
from flightsw.core.durable import DURABLE_KEYS
from flightsw.core.job import JobConfig
from flightsw.core.parameter_set import flown
from flightsw.core.table_handler import Handler, Outcomes
from flightsw.core.tables import DUMPS_MAX, LOADS_MAX
from flightsw.core.vehicle import Vehicle
from flightsw.link.errors import TableError, TableInUseError
from flightsw.link.schema import FailureCode
from flightsw.link.tables import IMAGE_BYTES_MAX, LOADABLE, PIECE_BYTES_MAX, Kind, Table

CONFIG = executive.Config(jobs=(JobConfig(id="train", kind="train"),))
F = FailureCode
IMAGE = parameters("cold", eps__soc_safe=0.6, eps__soc_recovered=0.65, mode__recover_s=20.0)
CRC = zlib.crc32(IMAGE)
WORDS = b"no words are refused " * 200


class Texts:
    """A kind of table for tests: any text that has no "bad" in it. ``active`` lives here, not in a vehicle."""

    def __init__(self) -> None:
        self.active: dict[str, bytes] = {}
        self.refusal: TableError | None = None

    def check(self, vehicle: Vehicle, config: executive.Config, table: Table, image: bytes) -> str:
        if (at := image.find(b"bad")) >= 0:
            raise TableError(f"bad word at {at}")
        if image == b"trap":
            raise KeyError("a mistake of ours")
        return f"{len(image.split())} words"

    def activate(
        self, vehicle: Vehicle, config: executive.Config, table: Table, image: bytes | None, now_s: float
    ) -> tuple[Vehicle, Outcomes]:
        if self.refusal is not None:
            raise self.refusal
        self.active[table.name] = image or b""
        return vehicle, ()

    def image(self, vehicle: Vehicle, table: Table) -> bytes:
        return self.active.get(table.name, b"")


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> Texts:
    """Handlers for the tables that no other service needs in these tests."""
    kind = Texts()
    for each in (Kind.WATCHPOINTS, Kind.ACTIONPOINTS, Kind.ABSOLUTE, Kind.RELATIVE):
        monkeypatch.setitem(table_kinds.HANDLERS, each, Handler(kind.check, kind.activate, kind.image))
    monkeypatch.setitem(table_kinds.STATUSES, "resets", lambda vehicle, table: b"twice")
    return kind


@pytest.fixture
def desk(texts: Texts) -> Operator:
    return Operator(CONFIG)


def begin(desk: Operator, table: str = "rts01", image: bytes = WORDS, **changes: int) -> tuple[F, str]:
    fields = {"size_bytes": len(image), "crc32": zlib.crc32(image), **changes}
    return desk.send("table.begin", table=table, **fields)


def test_a_piece_is_bounded_by_the_dictionary_and_a_load_by_its_size(desk: Operator) -> None:
    assert begin(desk, size_bytes=1000)[0] is F.NONE
    for offset, octets, code in [
        (0, b"", F.BAD_ARGUMENT),
        (0, b"x" * (PIECE_BYTES_MAX + 1), F.BAD_ARGUMENT),
        (-1, b"x", F.BAD_ARGUMENT),
        (IMAGE_BYTES_MAX, b"x", F.BAD_ARGUMENT),
        (0, 5, F.BAD_ARGUMENT),
        (1000, b"x", F.BAD_ARGUMENT),
        (400, b"x" * 601, F.BAD_ARGUMENT),
        (400, b"x" * 600, F.NONE),
        (999, b"x", F.NONE),
    ]:
        before = desk.vehicle.tables
        found, text = desk.send("table.data", table="rts01", offset=offset, data=octets)
        assert found is code, (offset, text)
        if code is not F.NONE:
            assert desk.vehicle.tables == before
            assert text
    assert "octets 400 to 1000 are outside of the announced 1000 of rts01" in str(desk.events("TC_FAILED"))
    assert desk.send("table.data", table="rts01", offset=0, data=b"x")[1] == "399 of 1000 octets are missing"


BAD_FIELDS = [
    ("table.begin", {"table": "rts65"}),
    ("table.begin", {"table": 4}),
    ("table.begin", {"table": "resets"}),
    ("table.begin", {"size_bytes": 0}),
    ("table.begin", {"size_bytes": IMAGE_BYTES_MAX + 1}),
    ("table.begin", {"size_bytes": 1.5}),
    ("table.begin", {"crc32": -1}),
    ("table.begin", {"crc32": 2**32}),
    ("table.begin", {"crc32": "0"}),
    ("table.data", {"table": "rts00"}),
    ("table.data", {"offset": 1.0}),
    ("table.data", {"offset": -1}),
    ("table.data", {"data": "no hexadecimal"}),
    ("table.validate", {"table": "fdir_status"}),
    ("table.activate", {"table": "sequence_status"}),
    ("table.discard", {"table": ""}),
    ("table.reset", {"table": "resets"}),
    ("table.dump", {"table": "everything"}),
    ("table.dump", {"table": None}),
    ("parameter.stage", {"parameter": "eps.soc"}),
    ("parameter.stage", {"parameter": 100}),
    ("parameter.stage", {"value": float("nan")}),
    ("parameter.stage", {"value": float("inf")}),
    ("parameter.stage", {"value": True}),
    ("parameter.stage", {"value": "0.5"}),
    ("parameter.stage", {"value": 2e12}),
    ("parameter.stage", {"value": 1.5}),
    ("parameter.report", {"parameter": "eps"}),
]
GOOD = {
    "table.begin": {"table": "rts01", "size_bytes": 10, "crc32": 1},
    "table.data": {"table": "rts01", "offset": 0, "data": b"x"},
    "parameter.stage": {"parameter": "eps.soc_safe", "value": 0.6},
}


@pytest.mark.parametrize(("name", "bad"), BAD_FIELDS, ids=[f"{n}-{b}" for n, b in BAD_FIELDS])
def test_r7_each_field_of_each_telecommand_is_checked(desk: Operator, name: str, bad: dict[str, object]) -> None:
    begin(desk)
    before = desk.vehicle
    code, text = desk.send(name, **{**GOOD.get(name, {}), **bad})
    assert code is F.BAD_ARGUMENT
    assert next(iter(bad)) in text or "eps.soc_safe" in text
    assert desk.vehicle.tables == before.tables
    assert desk.vehicle.parameters == before.parameters


def test_r7_a_load_goes_from_pieces_to_activation(desk: Operator, texts: Texts) -> None:
    code, text = desk.load("rts07", WORDS, 777)
    assert code is F.NONE
    assert text == f"800 words: {len(WORDS)} octets, CRC-32 0x{zlib.crc32(WORDS):08X}"
    assert texts.active == {}
    code, text = desk.send("table.activate", table="rts07")
    assert (code, text) == (F.NONE, f"rts07 active: {len(WORDS)} octets, CRC-32 0x{zlib.crc32(WORDS):08X}")
    assert texts.active == {"rts07": WORDS}
    assert desk.store["rts07"] == WORDS
    assert desk.vehicle.tables.loads == ()
    (event,) = desk.events("TABLE_ACTIVATED")
    assert event[2] == {
        "table": "rts07",
        "content": "800 words",
        "crc32": f"0x{zlib.crc32(WORDS):08X}",
        "source": "ground",
    }


def test_pieces_in_any_order_repeated_and_overlapping(desk: Operator) -> None:
    begin(desk)
    spans = [(3000, 800), (0, 800), (3800, 400), (0, 800), (700, 800), (1500, 800), (2200, 800), (3100, 300)]
    for at, size in spans:
        assert desk.send("table.data", table="rts01", offset=at, data=WORDS[at : at + size])[0] is F.NONE
    assert desk.send("table.validate", table="rts01")[0] is F.NONE


def test_r7_validation_says_what_is_wrong_first_and_leaves_everything(desk: Operator, texts: Texts) -> None:
    desk.use("rts01", b"good words")
    begin(desk)
    for offset in (0, 800, 2400, 3200, 4000):
        desk.send("table.data", table="rts01", offset=offset, data=WORDS[offset : offset + 800])
    missing = "rts01: 800 of 4200 octets are missing, the first at offset 1600"
    assert desk.send("table.validate", table="rts01") == (F.INVALID_TABLE, missing)
    desk.send("table.data", table="rts01", offset=1600, data=b"?" + WORDS[1601:2400])
    code, text = desk.send("table.validate", table="rts01")
    assert code is F.INVALID_TABLE
    assert f"announced was 0x{zlib.crc32(WORDS):08X}" in text
    assert desk.send("table.activate", table="rts01")[0] is F.NOT_VALIDATED
    desk.send("table.data", table="rts01", offset=1600, data=WORDS[1600:1601])
    assert desk.send("table.validate", table="rts01")[0] is F.NONE
    assert desk.load("rts01", b"a bad word") == (F.INVALID_TABLE, "rts01: bad word at 2")
    assert desk.send("table.activate", table="rts01")[0] is F.NOT_VALIDATED
    assert texts.active == {"rts01": b"good words"}
    assert desk.store["rts01"] == b"good words"


def test_r7_nothing_goes_without_a_load(desk: Operator) -> None:
    for name in ("table.validate", "table.activate", "table.discard"):
        assert desk.send(name, table="ats1") == (F.NOT_STAGED, "no load of ats1 is open; begin one first")
    assert desk.send("table.data", table="ats1", offset=0, data=b"x")[0] is F.NOT_STAGED


def test_r7_activation_is_refused_unless_validated_and_goes_once(desk: Operator) -> None:
    begin(desk, image=b"words")
    assert desk.send("table.activate", table="rts01")[0] is F.NOT_VALIDATED
    desk.send("table.data", table="rts01", offset=0, data=b"words")
    assert desk.send("table.activate", table="rts01")[0] is F.NOT_VALIDATED
    assert desk.send("table.validate", table="rts01")[0] is F.NONE
    assert desk.send("table.validate", table="rts01")[0] is F.NONE
    assert desk.send("table.activate", table="rts01")[0] is F.NONE
    assert desk.send("table.activate", table="rts01")[0] is F.NOT_STAGED


def test_a_piece_after_validation_takes_the_verdict_back(desk: Operator) -> None:
    assert desk.load("rts01", b"words")[0] is F.NONE
    assert desk.send("table.data", table="rts01", offset=0, data=b"w")[1] == "whole"
    assert desk.send("table.activate", table="rts01")[0] is F.NOT_VALIDATED


def test_begin_again_starts_over(desk: Operator) -> None:
    assert desk.load("rts01", b"words")[0] is F.NONE
    assert begin(desk, image=b"other words")[0] is F.NONE
    assert desk.send("table.validate", table="rts01")[1].startswith("rts01: 11 of 11 octets are missing")


def test_five_loads_at_once_are_one_too_many(desk: Operator) -> None:
    names = ["ats1", "rts01", "rts02", "watchpoints"]
    assert len(names) == LOADS_MAX
    assert {begin(desk, name)[0] for name in names} == {F.NONE}
    code, text = begin(desk, "rts64")
    assert (code, text) == (
        F.BUSY, "loads of ats1, rts01, rts02, watchpoints are open; activate or discard one first",
    )  # fmt: skip
    assert desk.send("parameter.stage", parameter="eps.soc_safe", value=0.6)[0] is F.BUSY
    assert begin(desk, "rts02")[0] is F.NONE
    assert desk.send("table.discard", table="rts01")[0] is F.NONE
    assert begin(desk, "rts64")[0] is F.NONE
    assert [load.table for load in desk.vehicle.tables.loads] == ["ats1", "watchpoints", "rts02", "rts64"]


def test_an_image_of_another_kind_is_refused(desk: Operator) -> None:
    code, text = desk.load("parameters", WORDS[:100])
    assert code is F.INVALID_TABLE
    assert text.startswith("parameters: is no image of parameters")


def test_r7_memory_that_went_bad_after_validation_is_not_activated(desk: Operator, texts: Texts) -> None:
    desk.load("rts01", b"words")
    (load,) = desk.vehicle.tables.loads
    desk.vehicle = replace(desk.vehicle, tables=tables.changed(desk.vehicle.tables, replace(load, image=b"wordz")))
    code, text = desk.send("table.activate", table="rts01")
    assert code is F.INVALID_TABLE
    assert "CRC-32" in text
    assert texts.active == {}


@pytest.mark.parametrize(("error", "code"), [(TableError, F.INVALID_TABLE), (TableInUseError, F.WRONG_STATE)])
def test_r7_what_the_handler_refuses_at_the_last_moment_changes_nothing(
    desk: Operator, texts: Texts, error: type[TableError], code: FailureCode
) -> None:
    desk.load("rts01", b"words")
    texts.refusal = error("it does not go with the others now")
    refused = (code, "rts01: it does not go with the others now")
    assert desk.send("table.activate", table="rts01") == refused
    assert desk.send("table.reset", table="rts01") == (F.WRONG_STATE, refused[1])
    assert desk.store.keys() & {"rts01"} == set()
    texts.refusal = None
    assert desk.send("table.activate", table="rts01")[0] is F.NONE


@pytest.mark.parametrize("size", [0, 1, 799, 800, 801, 1600, IMAGE_BYTES_MAX])
def test_r7_a_dump_is_the_active_image_in_pieces(desk: Operator, texts: Texts, size: int) -> None:
    octets = bytes(n * 7 % 251 for n in range(size))
    texts.active["rts01"] = octets
    image, (code, text) = desk.dump("rts01")
    assert image == octets
    assert (code, text) == (F.NONE, f"rts01: {size} octets, CRC-32 0x{zlib.crc32(octets):08X}")
    assert desk.vehicle.tables.dumps == ()


def test_a_status_can_be_dumped(desk: Operator) -> None:
    assert desk.dump("resets")[0] == b"twice"


def test_dumps_share_a_bounded_number_of_packets_in_a_frame(desk: Operator, texts: Texts) -> None:
    texts.active |= {f"rts0{n}": bytes(4000) for n in range(1, 7)}
    desk.effects.clear()
    packets = [telecommand("table.dump", 900 + n, table=f"rts0{n}") for n in range(1, 7)]
    out = desk.frame(*packets)
    per_frame = []
    while desk.vehicle.tables.dumps:
        per_frame.append(sum(getattr(e, "apid", 0) == 0x14 for e in out))
        out = desk.frame()
    assert per_frame == [CONFIG.tables.dump_packets_per_frame] * 10
    assert [f["code"] for _, _, f in desk.events("TC_FAILED")] == ["BUSY"] * (6 - DUMPS_MAX)


def test_a_dump_is_a_snapshot(desk: Operator, texts: Texts) -> None:
    texts.active["rts01"] = b"a" * 8000
    desk.frame(telecommand("table.dump", 900, table="rts01"))
    texts.active["rts01"] = b"b" * 100
    desk.effects.clear()
    desk.fly(2.0)
    assert not desk.vehicle.tables.dumps
    assert not desk.events("TC_FAILED")


def test_what_nobody_holds_is_said(desk: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(table_kinds.HANDLERS, Kind.RELATIVE)
    monkeypatch.delitem(table_kinds.STATUSES, "resets")
    nobody = (F.UNKNOWN_TARGET, "nothing on board holds table rts01")
    assert begin(desk) == nobody
    assert desk.send("table.reset", table="rts01") == nobody
    assert desk.send("table.dump", table="rts01") == nobody
    assert desk.send("table.dump", table="resets")[0] is F.UNKNOWN_TARGET
    desk.store["rts01"] = b"words"
    assert not [e for e in desk.reboot() if e.startswith("TABLE")]


# --- over restarts -----------------------------------------------------------------------------------------


def test_every_loadable_table_is_a_durable_fact() -> None:
    assert {table.name for table in LOADABLE} <= set(DURABLE_KEYS)


def test_r7_what_was_activated_outlives_a_reboot_and_a_reset_does_too(desk: Operator, texts: Texts) -> None:
    desk.use("rts01", b"some words")
    desk.use("ats2", b"other words")
    texts.active.clear()
    told = [e for e in desk.reboot() if e.startswith("TABLE")]
    assert [" ".join(e.split()[1:5]) for e in told] == ["table ats2 from store:", "table rts01 from store:"]
    assert texts.active == {"rts01": b"some words", "ats2": b"other words"}
    assert desk.send("table.reset", table="rts01")[0] is F.NONE
    assert desk.store["rts01"] == b""
    texts.active.clear()
    desk.reboot()
    assert texts.active == {"ats2": b"other words"}


def test_r11_in_a_crash_loop_no_stored_parameter_acts_and_none_is_lost(desk: Operator, texts: Texts) -> None:
    assert desk.send("parameter.stage", parameter="mode.recover_s", value=33.0)[0] is F.NONE
    desk.send("table.validate", table="parameters")
    assert desk.send("table.activate", table="parameters")[0] is F.NONE
    told = [e for e in desk.reboot(crash_loop=True) if e.startswith("TABLE")]
    assert told == ["TABLES_SET_ASIDE crash loop: 1 stored tables are not flown, the defaults stand: parameters"]
    assert flown(desk.vehicle, desk.config).mode.recover_s == desk.config.mode.recover_s
    assert any(e.startswith("TABLE_ACTIVATED table parameters from store") for e in desk.reboot())
    assert flown(desk.vehicle, desk.config).mode.recover_s == 33.0


def test_r11_a_crash_loop_without_stored_tables_has_nothing_to_tell(desk: Operator) -> None:
    assert not [e for e in desk.reboot(crash_loop=True) if e.startswith("TABLE")]


def test_an_open_load_does_not_outlive_a_reboot(desk: Operator) -> None:
    desk.load("rts01", b"some words")
    desk.reboot()
    assert desk.send("table.activate", table="rts01")[0] is F.NOT_STAGED


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"a bad word", "bad word at 2"),
        (b"trap", "KeyError: 'a mistake of ours'"),
    ],
)
def test_r7_a_stored_table_that_is_refused_leaves_the_default_and_the_vehicle(
    desk: Operator, texts: Texts, payload: bytes, reason: str
) -> None:
    good = {table.name: b"good words" for table in LOADABLE if table.kind is Kind.RELATIVE}
    desk.store |= good | {"rts64": payload}
    told = [e for e in desk.reboot() if e.startswith("TABLE")]
    assert told[0] == f"TABLE_REJECTED stored table rts64 is unusable, the default stands: {reason}"
    assert told[1].startswith("TABLE_ACTIVATED table rts01 from store")
    assert texts.active.keys() == good.keys() - {"rts64"}
    assert desk.store["rts64"] == payload
    desk.fly(1.0)
