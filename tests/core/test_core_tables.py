"""R7: tables from the ground: staged, validated, activated; every refusal has a code, says why, changes nothing."""

import zlib

import pytest
from core_tables import Operator, parameters

from flightsw.core import executive
from flightsw.core.job import JobConfig
from flightsw.link.schema import FailureCode

CONFIG = executive.Config(jobs=(JobConfig(id="train", kind="train"),))
F = FailureCode
IMAGE = parameters("cold", eps__soc_safe=0.6, eps__soc_recovered=0.65, mode__recover_s=20.0)
CRC = zlib.crc32(IMAGE)


@pytest.fixture
def desk() -> Operator:
    return Operator(CONFIG)


@pytest.mark.parametrize("piece", [1, 7, 800])
def test_r7_a_load_goes_from_pieces_to_activation(desk: Operator, piece: int) -> None:
    code, text = desk.load("parameters", IMAGE, piece)
    assert code is F.NONE
    assert text == f"cold, 3 values: {len(IMAGE)} octets, CRC-32 0x{CRC:08X}"
    assert desk.vehicle.parameters.name == "default"
    code, text = desk.send("table.activate", table="parameters")
    assert (code, text) == (F.NONE, f"parameters active: {len(IMAGE)} octets, CRC-32 0x{CRC:08X}")
    assert desk.vehicle.parameters.name == "cold"
    assert desk.store["parameters"] == IMAGE
    assert [fields["source"] for _, _, fields in desk.events("TABLE_ACTIVATED")] == ["ground"]
    assert desk.dump("parameters")[0] == IMAGE


def test_r7_activation_is_refused_unless_validated(desk: Operator) -> None:
    assert desk.send("table.activate", table="parameters")[0] is F.NOT_STAGED
    desk.send("table.begin", table="parameters", size_bytes=len(IMAGE), crc32=CRC)
    assert desk.send("table.activate", table="parameters")[0] is F.NOT_VALIDATED
    desk.send("table.data", table="parameters", offset=0, data=IMAGE)
    assert desk.send("table.activate", table="parameters")[0] is F.NOT_VALIDATED
    assert desk.send("table.validate", table="parameters")[0] is F.NONE
    assert desk.send("table.activate", table="parameters")[0] is F.NONE
    assert desk.send("table.activate", table="parameters")[0] is F.NOT_STAGED


def test_r7_what_was_activated_outlives_a_reboot(desk: Operator) -> None:
    desk.use("parameters", IMAGE)
    events = desk.reboot()
    assert any(e.startswith("TABLE_ACTIVATED table parameters from store") for e in events)
    assert desk.vehicle.parameters.values["eps.soc_safe"] == 0.6
    assert desk.send("table.reset", table="parameters")[0] is F.NONE
    assert desk.store["parameters"] == b""
    assert not [e for e in desk.reboot() if e.startswith("TABLE")]
    assert desk.vehicle.parameters.values == {}
