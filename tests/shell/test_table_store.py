"""R7: stored tables on real files: truncated, flipped or lost, one copy serves, then the default, never a crash."""

import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from flight_bench import Flight

from flightsw.core import executive, parameter_set
from flightsw.core.effects import Announce
from flightsw.link import settings
from flightsw.link.schema import FailureCode, Stage
from flightsw.link.settings import ParameterSet
from flightsw.shell import store as store_module
from flightsw.shell.daemon import load_durable
from flightsw.shell.store import Store

CONFIG = executive.Config()
OLD = settings.encode(ParameterSet(name="old", values={"mode.recover_s": 20.0}))
NEW = settings.encode(ParameterSet(name="new", values={"mode.recover_s": 30.0, "eps.bus_power_w": 70.0}))
COPIES = ("parameters.a", "parameters.b")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state directory in which a set was activated, then another one."""
    store = Store(tmp_path)
    assert store.save("parameters", OLD) == ""
    assert store.save("parameters", NEW) == ""
    return tmp_path


def booted(folder: Path) -> tuple[str, list[str], tuple[str, ...]]:
    """Boot on a state directory: name of the active set, event texts, faults of the store."""
    durable, faults = load_durable(Store(folder))
    vehicle, effects = executive.boot(
        CONFIG, boot_count=1, cause="", crash_loop=False, config_hash="", now_s=1.0, durable=durable
    )
    texts = [f"{e.name} {e.text}" for e in effects if isinstance(e, Announce)]
    expected = parameter_set.build(CONFIG, vehicle.parameters.values)
    assert parameter_set.flown(vehicle, CONFIG) == expected
    return vehicle.parameters.name, texts, faults


@pytest.mark.parametrize(("name", "step"), [(COPIES[0], 1), (COPIES[1], 9)])
def test_r7_a_copy_cut_at_every_octet_leaves_the_other(folder: Path, name: str, step: int) -> None:
    whole = (folder / name).read_bytes()
    for size in range(0, len(whole), step):
        (folder / name).write_bytes(whole[:size])
        active, _, faults = booted(folder)
        assert active == "new", size
        assert [fault.split(":")[0] for fault in faults] == [name]
        assert (folder / name).read_bytes() != whole[:size], "a bad copy is made good at once"


@pytest.mark.parametrize("name", COPIES)
def test_r7_a_copy_with_a_flipped_bit_leaves_the_other(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for bit in random.Random(7).sample(range(8 * len(whole)), 40):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(flipped)
        active, _, faults = booted(folder)
        assert (active, len(faults)) == ("new", 1), bit


def test_r7_a_longer_file_with_a_stale_tail_leaves_the_other(folder: Path) -> None:
    with (folder / "parameters.a").open("ab") as file:
        file.write(b"tail of a longer image that was here before")
    assert booted(folder)[0] == "new"


def test_r7_both_copies_cut_is_the_default_and_told(folder: Path) -> None:
    whole = {name: (folder / name).read_bytes() for name in COPIES}
    for size in range(0, len(whole[COPIES[0]]), 3):
        for name in COPIES:
            (folder / name).write_bytes(whole[name][:size])
        active, texts, faults = booted(folder)
        assert active == "default"
        assert not [text for text in texts if text.startswith("TABLE")]
        assert [fault.split(":")[0] for fault in faults] == list(COPIES)


def test_r7_whole_copies_of_something_else_are_refused_with_an_event(folder: Path) -> None:
    """A shorter image, one of another table, one of another dictionary: the CRC holds, the content does not."""
    for payload in (NEW[:-1], NEW[:10], b"\x00", OLD.replace(b"recover_s", b"recover_h"), b"\x93\x01\x02\x03"):
        assert Store(folder).save("parameters", payload) == ""
        active, texts, faults = booted(folder)
        assert (active, faults) == ("default", ())
        assert [text.split()[0] for text in texts] == ["BOOT", "TABLE_REJECTED"]
    shutil.copy(folder / "parameters.a", folder / "rts01.a")
    assert [fault.split(":")[0] for fault in booted(folder)[2]] == ["rts01.a"]


class PowerCut(BaseException):
    """The end of everything, at a chosen moment."""


@pytest.mark.parametrize(("writes", "survives"), [(0, "old"), (1, "new"), (2, "new")])
def test_r7_power_cut_between_the_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int, survives: str
) -> None:
    """Before the first copy the old set is active after the next boot, from the first copy on the new one."""
    assert Store(tmp_path).save("parameters", OLD) == ""
    write, done = store_module.write_durably, []

    def cut(path: Path, data: bytes) -> None:
        if len(done) == writes:
            path.with_name(path.name + ".tmp").write_bytes(data[: len(data) // 2])
            raise PowerCut
        done.append(path)
        write(path, data)

    monkeypatch.setattr(store_module, "write_durably", cut)
    if writes < len(COPIES):
        with pytest.raises(PowerCut):
            Store(tmp_path).save("parameters", NEW)
    else:
        Store(tmp_path).save("parameters", NEW)
    monkeypatch.undo()
    active, texts, faults = booted(tmp_path)
    assert (active, faults) == (survives, ())
    assert any(text.startswith("TABLE_ACTIVATED table parameters from store") for text in texts)


@pytest.fixture
def flight(tmp_path: Path) -> Iterator[Flight]:
    with ExitStack() as resources:
        flight = Flight(tmp_path, "udp", resources)
        flight.start()
        yield flight


def done(flight: Flight, name: str, **arguments: object) -> str:
    """Send a telecommand and wait for its success; the text of the completion."""
    command = flight.send(name, **arguments)
    found = flight.until(
        lambda: [v for v in flight.verifications(command) if v.stage == Stage.COMPLETION or v.code], what=name
    )
    assert found[-1].code == FailureCode.NONE, found
    return found[-1].text


@pytest.mark.process
def test_r7_parameters_outlive_the_daemon_and_damage_of_its_files(flight: Flight) -> None:
    """The real process: staged, validated, activated, killed, one copy damaged, killed, both damaged."""
    codes = {s.name: s.id for s in settings.SETTINGS}
    flight.until(lambda: flight.events("BOOT"), what="boot")
    done(flight, "parameter.stage", parameter=codes["eps.soc_safe"], value=0.6)
    done(flight, "parameter.stage", parameter=codes["mode.recover_s"], value=25.0)
    done(flight, "table.validate", table=1)
    done(flight, "table.activate", table=1)
    store = Store(flight.state)
    flight.until(lambda: store.load("parameters").version == 1 and not store.load("parameters").faults)
    flight.until(lambda: (flight.state / "parameters.b").exists(), what="second copy")
    flight.end()

    image = bytearray((flight.state / "parameters.a").read_bytes())
    image[-20] ^= 4
    (flight.state / "parameters.a").write_bytes(image)
    flight.start()
    (event,) = flight.until(lambda: flight.events("TABLE_ACTIVATED", boot=2), what="set of the store")
    assert (event.fields["table"], event.fields["source"]) == ("parameters", "store")
    (fault,) = flight.until(lambda: flight.events("STORE_FAULT", boot=2), what="fault of a copy")
    assert "parameters.a" in fault.fields["reason"]
    assert "eps.soc_safe = 0.6, file 0.701" in done(flight, "parameter.report", parameter=codes["eps.soc_safe"])
    flight.end()

    for name in COPIES:
        (flight.state / name).write_bytes((flight.state / name).read_bytes()[:30])
    flight.start()
    flight.until(lambda: flight.events("STORE_FAULT", boot=3), what="faults of both copies")
    assert not flight.events("TABLE_ACTIVATED", boot=3)
    assert "eps.soc_safe = 0.701" in done(flight, "parameter.report", parameter=codes["eps.soc_safe"])
