"""What goes into a run in virtual time, and what comes out: timed commands and faults, and the evidence.

Values only. ``inproc`` flies them.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from flightsw.link.bodies import ArgumentValue, CommandBody, pack_body
from flightsw.link.dictionary import APID_TELECOMMAND, TELECOMMAND_BY_NAME
from flightsw.link.packet import ACK_ALL, TcPacket, encode_tc

from .inproc_card import CARD_FAULTS, check_card_fault
from .plant.disturbances import FAULTS

WORKER_KILL: Final = "worker_kill"
STATION_SOURCE: Final = 2


class TimedCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A telecommand of the operator; it waits for the next contact when there is none."""

    world_s: float
    name: str
    arguments: dict[str, ArgumentValue] = {}


class TimedFault(msgspec.Struct, frozen=True, kw_only=True):
    """A fault of the plant or the card with its parameters, cleared after ``duration_s`` (0 is never), or
    "worker_kill" of ``job``."""

    world_s: float
    name: str
    parameters: dict[str, float | str] = {}
    duration_s: float = 0.0
    job: str = "train"


class LoggedEvent(msgspec.Struct, frozen=True):
    """An event as the daemon's log would have it."""

    world_s: float
    severity: str
    name: str
    text: str


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a run in virtual time showed. Extremes and violations are of the plant's truth, at every frame."""

    digest: str
    frames: int
    duration_s: float
    frame_s: float
    mode_time_s: dict[str, float]
    eclipse_s: float
    contact_s: float
    soc_min: float
    soc_floor: float
    soc_end: float
    soc_violation_s: float
    gpu_temp_max_degc: float
    gpu_temp_limit_degc: float
    radiator_temp_max_degc: float
    radiator_temp_limit_degc: float
    temp_violation_s: float
    gpu_power_sun_w: float
    gpu_power_eclipse_w: float
    train_steps: int
    checkpoints: int
    worker_starts: int
    worker_kills: int
    boots: int
    watchdog_kicks: int
    packets_made: int
    packets_live: int
    packets_playback: int
    packets_pending: int
    packets_shed: int
    events: tuple[LoggedEvent, ...]
    events_left_out: int

    @property
    def ok(self) -> bool:
        """Whether the battery stayed over its floor and both nodes under their limits."""
        return self.soc_violation_s == 0.0 and self.temp_violation_s == 0.0


def uplink(commands: Sequence[TimedCommand], seed: int) -> list[tuple[float, bytes]]:
    """When each telecommand is due and its packet, in order of time; ids are unique in the run.

    Raises ``ValueError`` for a telecommand that is not in the dictionary.
    """
    ordered = sorted(commands, key=lambda item: item.world_s)
    return [(item.world_s, telecommand_packet(item, seed, number)) for number, item in enumerate(ordered, start=1)]


def telecommand_packet(item: TimedCommand, seed: int, number: int) -> bytes:
    """The packet of one telecommand; its id is unique in the run when ``number`` is.

    Raises ``ValueError`` for a telecommand that is not in the dictionary.
    """
    telecommand = TELECOMMAND_BY_NAME.get(item.name)
    if telecommand is None:
        raise ValueError(f"telecommand {item.name!r}: unknown; known are {', '.join(sorted(TELECOMMAND_BY_NAME))}")
    body = CommandBody(telecommand.opcode, (abs(seed) % 2**31) * 2**20 + number, item.arguments)
    packet = TcPacket(
        apid=APID_TELECOMMAND,
        sequence_count=number,
        service=telecommand.service,
        subtype=telecommand.subtype,
        source=STATION_SOURCE,
        ack_flags=ACK_ALL,
        body=pack_body(body),
    )
    return encode_tc(packet)


def schedule(faults: Sequence[TimedFault]) -> list[tuple[float, int, bool, TimedFault]]:
    """Beginnings and ends in order of time; ``ValueError`` for a fault that nobody knows."""
    planned: list[tuple[float, int, bool, TimedFault]] = []
    for number, fault in enumerate(faults):
        if fault.name in CARD_FAULTS:
            check_card_fault(fault.name, fault.parameters)
        if fault.name != WORKER_KILL:
            if fault.name not in FAULTS and fault.name not in CARD_FAULTS:
                known = (WORKER_KILL, *FAULTS, *CARD_FAULTS)
                raise ValueError(f"fault {fault.name!r}: unknown; known are {', '.join(known)}")
            if fault.duration_s > 0.0:
                planned.append((fault.world_s + fault.duration_s, number, False, fault))
        planned.append((fault.world_s, number, True, fault))
    return sorted(planned, key=lambda row: row[:3])
