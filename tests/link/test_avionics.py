"""The avionics wire: round trips, every single-byte error, and what it refuses."""

import binascii
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link.avionics import (
    SENSOR_FRAME_BYTES_MAX,
    ActuatorFrame,
    SensorFrame,
    decode,
    encode,
)
from flightsw.link.errors import BodyError, LinkError, PacketError

SENSORS = SensorFrame(
    sequence=1,
    world_s=2.5,
    tai_s=2.1e9,
    warp=50.0,
    bus_voltage_v=28.1,
    bus_current_a=4.5,
    array_power_w=900.0,
    battery_voltage_v=27.5,
    battery_current_a=-3.5,
    battery_temp_degc=21.5,
    soc_fraction=0.87,
    sun_fraction=0.99,
    gpu_temp_degc=55.5,
    radiator_temp_degc=33.3,
    gpu_rail_power_w=410.0,
    gpu_rail_on=True,
    latitude_deg=-23.4,
    longitude_deg=-45.6,
    altitude_km=550.5,
    proton_flux_cm2_s=12.5,
    radio_lock=True,
)
ACTUATORS = ActuatorFrame(sequence=3, frame_count=4, gpu_rail_on=True, transmitter_on=False)
finite = st.floats(allow_nan=False, allow_infinity=False)
frames = st.builds(
    SensorFrame,
    **{name: st.floats(allow_nan=False) for name in SENSORS.__struct_fields__ if name[-3:] not in {"_on", "ock"}}
    | {"sequence": st.integers(0, 2**32), "warp": st.floats(0.1, 1e6), "world_s": finite, "tai_s": finite}
    | {"gpu_rail_on": st.booleans(), "radio_lock": st.booleans()},
) | st.builds(
    ActuatorFrame,
    sequence=st.integers(0, 2**32),
    frame_count=st.integers(0, 2**32),
    gpu_rail_on=st.booleans(),
    transmitter_on=st.booleans(),
)


def with_crc(body: bytes) -> bytes:
    return body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "big")


def with_field(**changes: object) -> bytes:
    return with_crc(msgspec.msgpack.encode(msgspec.to_builtins(SENSORS) | changes))


@given(frames)
def test_round_trip(frame):
    assert decode(encode(frame)) == frame


def test_a_sensor_without_a_value_is_nan():
    frame = decode(with_field(soc_fraction=math.nan))
    assert isinstance(frame, SensorFrame)
    assert math.isnan(frame.soc_fraction)


@pytest.mark.parametrize("unit", [encode(SENSORS), encode(ACTUATORS)], ids=["sensors", "actuators"])
def test_any_single_byte_change_is_refused(unit):
    for position in range(len(unit)):
        for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            damaged = bytearray(unit)
            damaged[position] ^= flip
            with pytest.raises(PacketError, match="CRC"):
                decode(bytes(damaged))


@pytest.mark.parametrize("size", [0, 2, SENSOR_FRAME_BYTES_MAX + 1])
def test_sizes_out_of_bounds(size):
    with pytest.raises(PacketError, match=f"unit of {size} bytes, allowed are 3 to 1024"):
        decode(bytes(size))


# (what, unit)
REFUSED = (
    ("another type", with_field(type="thrusters")),
    ("text for a number", with_field(soc_fraction="full")),
    ("no map", with_crc(b"\x93\x01\x02\x03")),
    ("infinite mission time", with_field(world_s=math.inf)),
    ("no atomic time", with_field(tai_s=math.nan)),
    ("time stands still", with_field(warp=0.0)),
    ("time runs backwards", with_field(warp=-1.0)),
    ("warp without end", with_field(warp=1e7)),
    ("no UTF-8", with_crc(encode(SENSORS)[:-2].replace(b"sensors", b"sensor\xff"))),
    ("too deep", with_crc(b"\x82\xa1x" + b"\x91" * 1010 + b"\xc0")),
)


@pytest.mark.parametrize("unit", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(unit):
    with pytest.raises(BodyError) as refusal:
        decode(unit)
    assert "\n" not in str(refusal.value)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(with_crc))
def test_garbage_raises_nothing_but_a_link_error(unit):
    with pytest.raises(LinkError):
        decode(unit)
