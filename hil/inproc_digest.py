"""A digest of a run in virtual time: every effect of every frame, and the truth behind it.

Two runs of one digest did the same, bit for bit: the same packets, orders and events at the same frames, in
the same world.
"""

from struct import Struct as ByteLayout
from typing import Final, get_args

import msgspec
import xxhash

from flightsw.core.effects import Effect, Telemetry

from .plant.truth import Truth

_TRUTH: Final = ByteLayout("<8d")
_NAMES: Final[dict[type, bytes]] = {kind: kind.__name__.encode() for kind in get_args(Effect)}


class Digest:
    """XXH3-128 over what is put in."""

    def __init__(self) -> None:
        self._hash, self._encode = xxhash.xxh3_128(), msgspec.msgpack.Encoder().encode
        self._update = self._hash.update

    @property
    def text(self) -> str:
        """The digest so far, hexadecimal."""
        return self._hash.hexdigest()

    def truth(self, truth: Truth) -> None:
        """The world at the end of a frame."""
        self._update(
            _TRUTH.pack(
                truth.world_s,
                truth.soc_fraction,
                truth.gpu_temp_degc,
                truth.radiator_temp_degc,
                truth.bus_voltage_v,
                truth.gpu_rail_power_w,
                truth.latitude_deg,
                truth.longitude_deg,
            )
        )

    def effect(self, effect: Effect) -> None:
        """One effect; of a telemetry packet its bytes, which carry everything else."""
        self._update(_NAMES[type(effect)])
        self._update(effect.packet if isinstance(effect, Telemetry) else self._encode(effect))
