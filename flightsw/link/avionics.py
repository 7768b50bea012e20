"""Messages of the avionics wire: what the bus tells the computer, and what the computer asks of the bus.

The wire is private to the spacecraft (serial or UDP), so it needs no CCSDS headers: a unit is one msgpack map
with a CRC-16, ``body ‖ crc16(body)``, COBS-framed on a serial line, one per datagram on UDP; framing is the
same ``frame.Deframer`` as on the radio.

Two clocks meet here. ``world_s`` is mission time; the machine's clock never appears on this wire. ``warp`` tells
how many world seconds pass in one machine second (1 in flight), so that the daemon can carry mission time
forward between frames.
"""

import binascii
import math
from typing import Final

import msgspec

from .errors import BodyError, PacketError

SENSOR_FRAME_BYTES_MAX: Final = 1024
WARP_MAX: Final = 1e6


class SensorFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="sensors"):
    """One sample of every bus sensor. NaN means the sensor gives no value.

    ``tai_s`` is seconds of TAI since 1958-01-01 (CUC epoch). ``battery_current_a`` is positive when charging.
    ``gpu_rail_power_w`` is measured by the power board, independent of the card's own reading. ``radio_lock``
    is the transceiver's carrier lock.
    """

    sequence: int
    world_s: float
    tai_s: float
    warp: float
    bus_voltage_v: float
    bus_current_a: float
    array_power_w: float
    battery_voltage_v: float
    battery_current_a: float
    battery_temp_degc: float
    soc_fraction: float
    sun_fraction: float
    gpu_temp_degc: float
    radiator_temp_degc: float
    gpu_rail_power_w: float
    gpu_rail_on: bool
    latitude_deg: float
    longitude_deg: float
    altitude_km: float
    proton_flux_cm2_s: float
    radio_lock: bool


class ActuatorFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="actuators"):
    """What the computer asks of the bus, sent once per minor frame; silence for 2 s drops the GPU rail.

    ``frame_count`` lets the bus see that minor frames complete.
    """

    sequence: int
    frame_count: int
    gpu_rail_on: bool
    transmitter_on: bool


AvionicsMessage = SensorFrame | ActuatorFrame

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[AvionicsMessage]] = msgspec.msgpack.Decoder(AvionicsMessage)


def encode(message: AvionicsMessage) -> bytes:
    """One unframed unit: msgpack map and CRC-16/CCITT-FALSE, big-endian."""
    body = _encoder.encode(message)
    return body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "big")


def decode(unit: bytes) -> AvionicsMessage:
    """Inverse of ``encode``.

    Raises ``PacketError`` for a wrong length or CRC and ``BodyError`` for a body that is no message of this
    wire or whose times are not finite.
    """
    if not 3 <= len(unit) <= SENSOR_FRAME_BYTES_MAX:
        raise PacketError(f"avionics unit of {len(unit)} bytes, allowed are 3 to {SENSOR_FRAME_BYTES_MAX}")
    body, crc = unit[:-2], int.from_bytes(unit[-2:], "big")
    if binascii.crc_hqx(body, 0xFFFF) != crc:
        raise PacketError("avionics unit with a wrong CRC")
    try:
        message = _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # Text that is not UTF-8 and deep nesting have exceptions of their own.
        raise BodyError(f"avionics body: {error}") from None
    if isinstance(message, SensorFrame) and not (
        math.isfinite(message.world_s) and math.isfinite(message.tai_s) and 0.0 < message.warp <= WARP_MAX
    ):
        raise BodyError(f"avionics body: world_s and tai_s must be finite, warp over 0 and at most {WARP_MAX:g}")
    return message
