"""R7: any order of commands on tables, and nothing is raised, unvalidated or unbounded.

The model is what the ground believes: of each table the octets it has sent since it began, and what is active. The
real thing is the executive, by telecommands.
"""

import zlib

import pytest
from core_tables import Operator
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from flightsw.core import executive, tables
from flightsw.core.tables import LOADS_MAX
from flightsw.link import settings as parameter_settings
from flightsw.link.errors import TableError
from flightsw.link.schema import FailureCode
from flightsw.link.settings import ParameterSet, encode

F = FailureCode
CONFIG = executive.Config()
IMAGES = (
    encode(ParameterSet(name="empty")),
    encode(ParameterSet(name="one", values={"mode.recover_s": 20.0})),
    encode(ParameterSet(name="two", values={"mode.recover_s": 25.0, "eps.bus_power_w": 70.0})),
    encode(ParameterSet(name="wrong", values={"mode.recover_s": -1.0})),
    encode(ParameterSet(name="contradiction", values={"eps.soc_recovered": 0.6})),
    b"\xc1 is no msgpack",
)
OTHERS = ("ats1", "rts01", "rts02", "watchpoints", "actionpoints")
MEMORY_BYTES_MAX = LOADS_MAX * 131_072


def allowed(image: bytes) -> bool:
    """Whether an image is a set that goes with the file; of those here only one value does not."""
    try:
        return "eps.soc_recovered" not in parameter_settings.decode(image).values
    except TableError:
        return False


class Protocol(RuleBasedStateMachine):
    """The load of "parameters", with other loads competing for room."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Operator(CONFIG)
        self.image: bytes | None = None
        self.crc32 = 0
        self.sent: dict[int, int] = {}
        self.valid = False
        self.active = self.desk.vehicle.parameters.image

    def room(self) -> bool:
        loads = self.desk.vehicle.tables.loads
        return len([load for load in loads if load.table != "parameters"]) < LOADS_MAX

    @rule(image=st.sampled_from(IMAGES), crc_fault=st.sampled_from((0, 0, 0, 1)))
    def begin(self, image: bytes, crc_fault: int) -> None:
        crc32 = zlib.crc32(image) ^ crc_fault
        code, _ = self.desk.send("table.begin", table="parameters", size_bytes=len(image), crc32=crc32)
        if self.room():
            assert code is F.NONE
            self.image, self.crc32, self.sent, self.valid = image, crc32, {}, False
        else:
            assert code is F.BUSY

    @rule(offset=st.integers(-1, 60), size=st.integers(0, 60), flip=st.sampled_from((0, 0, 0, 0x80)))
    def piece(self, offset: int, size: int, flip: int) -> None:
        source = self.image or IMAGES[2]
        data = bytes(octet ^ flip for octet in source[max(offset, 0) :][:size])
        code, _ = self.desk.send("table.data", table="parameters", offset=offset, data=data)
        if not data or offset < 0:
            assert code is F.BAD_ARGUMENT
        elif self.image is None:
            assert code is F.NOT_STAGED
        else:
            assert code is F.NONE
            self.sent |= {offset + at: octet for at, octet in enumerate(data)}
            self.valid = False

    @rule()
    def rest(self) -> None:
        """All that is missing or flipped, as a patient ground would send it."""
        if self.image is not None:
            assert self.desk.send("table.data", table="parameters", offset=0, data=self.image)[0] is F.NONE
            self.sent = dict(enumerate(self.image))
            self.valid = False

    @rule(image=st.sampled_from(IMAGES[:3]), crc_fault=st.sampled_from((0, 0, 1)))
    def whole_load(self, image: bytes, crc_fault: int) -> None:
        """What usually happens, so that the rare orders are tried from there too."""
        self.begin(image, crc_fault)
        self.rest()
        self.validate()

    @rule(beyond=st.integers(1, 900))
    def piece_out_of_bounds(self, beyond: int) -> None:
        if self.image is not None:
            size = min(beyond, 800)
            offset = len(self.image) + beyond - size
            code, _ = self.desk.send("table.data", table="parameters", offset=offset, data=b"x" * size)
            assert code is F.BAD_ARGUMENT

    @rule()
    def validate(self) -> None:
        code, text = self.desk.send("table.validate", table="parameters")
        if self.image is None:
            assert code is F.NOT_STAGED
            return
        got = bytes(self.sent.get(at, 0) for at in range(len(self.image)))
        whole = len(self.sent) == len(self.image) and zlib.crc32(got) == self.crc32
        assert (code is F.NONE) == (whole and allowed(got)), text
        assert code in (F.NONE, F.INVALID_TABLE)
        # A verdict once given stands: nothing has changed since.
        assert code is F.NONE or not self.valid
        self.valid = code is F.NONE

    @rule()
    def activate(self) -> None:
        code, _ = self.desk.send("table.activate", table="parameters")
        if self.image is None:
            assert code is F.NOT_STAGED
        elif not self.valid:
            assert code is F.NOT_VALIDATED
        else:
            assert code is F.NONE
            self.active, self.image, self.valid = self.image, None, False

    @rule()
    def discard(self) -> None:
        code, _ = self.desk.send("table.discard", table="parameters")
        assert code is (F.NOT_STAGED if self.image is None else F.NONE)
        self.image, self.valid = None, False

    @rule()
    def reset(self) -> None:
        assert self.desk.send("table.reset", table="parameters")[0] is F.NONE
        self.active = encode(ParameterSet(name="default"))

    @rule(value=st.sampled_from((-1.0, 5.0, 10.0, 45.0)))
    def stage(self, value: float) -> None:
        before = tables.load_of(self.desk.vehicle.tables, "parameters")
        code, _ = self.desk.send("parameter.stage", parameter="mode.recover_s", value=value)
        if value < 0.0:
            assert code is F.BAD_ARGUMENT
        elif before is None and not self.room():
            assert code is F.BUSY
        elif code is F.NONE:
            load = tables.load_of(self.desk.vehicle.tables, "parameters")
            assert load is not None
            self.image, self.crc32, self.valid = load.image, load.crc32, False
            self.sent = dict(enumerate(load.image))
        else:
            assert code is F.WRONG_STATE

    @rule(names=st.lists(st.sampled_from(OTHERS), min_size=1, max_size=7), size=st.sampled_from((1, 131_072)))
    def open_others(self, names: list[str], size: int) -> None:
        for name in names:
            state = tables.begin(self.desk.vehicle.tables, name, size, 0)
            if state is not None:
                self.desk.vehicle = replace(self.desk.vehicle, tables=state)

    @rule(table=st.sampled_from(OTHERS))
    def close_another(self, table: str) -> None:
        state = tables.closed(self.desk.vehicle.tables, table)
        self.desk.vehicle = replace(self.desk.vehicle, tables=state)

    @rule()
    def reboot(self) -> None:
        self.desk.reboot()
        self.image, self.valid = None, False
        self.desk.frame()

    @rule()
    def dump(self) -> None:
        assert self.desk.dump("parameters")[0] == self.active

    @invariant()
    def only_what_was_validated_is_active(self) -> None:
        state = self.desk.vehicle.parameters
        assert state.image == self.active
        assert state.crc32 == zlib.crc32(self.active)
        assert state.values == dict(parameter_settings.decode(self.active).values)
        assert self.desk.store.get("parameters", b"") in (b"", self.active)

    @invariant()
    def memory_is_bounded(self) -> None:
        loads = self.desk.vehicle.tables.loads
        assert len({load.table for load in loads}) == len(loads) <= LOADS_MAX
        assert sum(len(load.image) for load in loads) <= MEMORY_BYTES_MAX
        assert all(load.covered.bit_length() <= load.size_bytes == len(load.image) for load in loads)
        self.desk.effects.clear()


def keeping_the_verdict(put):
    return lambda load, offset, data: replace(put(load, offset, data), phase=load.phase)


def believing_any_crc(fault):
    return lambda load: fault(replace(load, crc32=zlib.crc32(load.image)))


def without_room(opened):
    return lambda state, load: replace(state, loads=(*tables.closed(state, load.table).loads, load))


def covering_too_much(put):
    return lambda load, offset, data: put(replace(load, covered=load.covered | 1 << load.size_bytes), offset, data)


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("put", keeping_the_verdict),
        ("fault", believing_any_crc),
        ("opened", without_room),
        ("put", covering_too_much),
    ],
)
def test_planted_bugs_are_found(monkeypatch: pytest.MonkeyPatch, name: str, mutant) -> None:
    monkeypatch.setattr(tables, name, mutant(getattr(tables, name)))
    found = settings(
        max_examples=400, stateful_step_count=40, deadline=None, derandomize=True, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    with pytest.raises((AssertionError, ValueError)):
        run_state_machine_as_test(Protocol, settings=found)


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
