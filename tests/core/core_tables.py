"""An operator of tables: sends commands, loads images in pieces, keeps what was persisted, and reboots on it."""

import zlib

from core_flight import Flight, telecommand

from flightsw.core import executive
from flightsw.core.effects import Announce, Persist, Telemetry
from flightsw.link import settings
from flightsw.link.bodies import TableBody, VerificationBody
from flightsw.link.codec import decode_telemetry
from flightsw.link.dictionary import APID_TABLE, APID_VERIFICATION
from flightsw.link.schema import FailureCode
from flightsw.link.settings import ParameterSet


def parameters(name: str = "set", **values: object) -> bytes:
    """Image of a parameter set; "eps__soc_safe" is the setting "eps.soc_safe"."""
    return settings.encode(ParameterSet(name=name, values={k.replace("__", "."): v for k, v in values.items()}))


class Operator(Flight):
    """A flight with an operator; ``send`` answers with the code and the text of the final report."""

    def __init__(self, config: executive.Config, **how: object) -> None:
        self.number = 0
        self.store: dict[str, bytes] = {}
        super().__init__(config, **how)
        self.fly(1.0)

    def _execute(self, effects: tuple[object, ...]) -> None:
        super()._execute(effects)
        self.store |= {effect.key: effect.payload for effect in effects if isinstance(effect, Persist)}

    def send(self, name: str, **arguments: object) -> tuple[FailureCode, str]:
        self.number += 1
        self.frame(telecommand(name, self.number, **arguments))
        for _ in range(2000):
            if not self.vehicle.commanding.in_flight:
                break
            self.frame()
        final = [
            decode_telemetry(effect.packet).body
            for effect in self.effects
            if isinstance(effect, Telemetry) and effect.apid == APID_VERIFICATION
        ]
        body = [b for b in final if isinstance(b, VerificationBody) and b.id == self.number][-1]
        return FailureCode(body.code), body.text

    def load(self, table: str, image: bytes, piece: int = 800) -> tuple[FailureCode, str]:
        """Begin, all pieces, validate: the answer to the last."""
        assert self.send("table.begin", table=table, size_bytes=len(image), crc32=zlib.crc32(image))[0] == 0
        for offset in range(0, len(image), piece):
            data = image[offset : offset + piece]
            assert self.send("table.data", table=table, offset=offset, data=data)[0] == 0
        return self.send("table.validate", table=table)

    def use(self, table: str, image: bytes) -> None:
        """Load an image and activate it."""
        assert self.load(table, image)[0] is FailureCode.NONE
        assert self.send("table.activate", table=table)[0] is FailureCode.NONE

    def dump(self, table: str) -> tuple[bytes, tuple[FailureCode, str]]:
        """Dump a table: its octets, put together from the packets, and the final report."""
        start = len(self.effects)
        answer = self.send("table.dump", table=table)
        bodies = [
            decode_telemetry(effect.packet).body
            for effect in self.effects[start:]
            if isinstance(effect, Telemetry) and effect.apid == APID_TABLE
        ]
        image = b""
        for body in bodies:
            assert isinstance(body, TableBody)
            assert body.offset == len(image)
            image += body.data
        assert {body.total for body in bodies} == {len(image)}
        assert {body.crc32 for body in bodies} == {zlib.crc32(image)}
        return image, answer

    def reboot(self, *, crash_loop: bool = False) -> list[str]:
        """A new life on what was persisted; the event texts of its boot."""
        self.workers.clear()
        self.vehicle, effects = executive.boot(
            self.config,
            boot_count=self.vehicle.boot_count + 1,
            cause="test",
            crash_loop=crash_loop,
            config_hash="cafe",
            now_s=self.now_s,
            durable=self.store,
        )
        self._execute(effects)
        return [f"{e.name} {e.text}" for e in effects if isinstance(e, Announce)]
