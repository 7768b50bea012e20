"""Ports: what the daemon needs of the world, as narrow as it is used.

``execute`` (what an effect means) depends on these and not on the adapters, so that each effect can be tried on a
port that only writes down what it was asked. Every method returns at once.
"""

from typing import NamedTuple, Protocol

from flightsw.core.effects import Actuate, Replay, SetRetention
from flightsw.core.plan import PlanRequest
from flightsw.gpu.protocol import ToChild

from .boot_record import End
from .recorder_tables import Row


class RadioPort(Protocol):
    """The way down."""

    def send(self, packet: bytes) -> bool:
        """Send one packet now; False when it was dropped."""


class AvionicsPort(Protocol):
    """The way to the bus."""

    def actuate(self, effect: Actuate) -> bool:
        """Send the actuator frame; False when it was dropped."""


class RecorderPort(Protocol):
    """Store and forward."""

    def record(self, row: Row) -> bool:
        """Keep a packet; False when it was dropped."""

    def acknowledge(self, boot: int, apid: int, first: int, last: int) -> bool:
        """The ground has these."""

    def play_back(self, budget_bytes: int) -> None:
        """Send what the ground does not have, up to a budget."""

    def replay(self, order: Replay) -> None:
        """Send events of the ring again."""

    def retain(self, retention: SetRetention) -> None:
        """Hold these bounds from now on."""


class WorkersPort(Protocol):
    """The workers of the jobs."""

    def start(self, job: str) -> None:
        """Exec the worker of a job."""

    def tell(self, job: str, message: ToChild) -> bool:
        """Send a message; False when nobody hears it."""

    def kill(self, job: str, reason: str) -> None:
        """SIGKILL."""


class PlannerPort(Protocol):
    """The planner's process."""

    def ask(self, request: PlanRequest, deadline_s: float) -> bool:
        """Send a request; False when nobody hears it."""


class StorePort(Protocol):
    """Small durable facts."""

    def put(self, key: str, payload: bytes) -> None:
        """Write a fact soon; the newest of a key wins."""


class WatchdogPort(Protocol):
    """Whoever restarts a stuck daemon."""

    def kick(self, now_s: float) -> bool:
        """Another healthy frame; False when it was not heard."""


class LifePort(Protocol):
    """The daemon's own end."""

    def request_end(self, reason: str, end: End) -> None:
        """End in an orderly way, and come up again unless ``end`` is "stop"."""

    def count_unclean_boots(self, count: int) -> None:
        """Set the number of unclean boots in a row."""


class Ports(NamedTuple):
    """All of them together, for ``execute``."""

    radio: RadioPort
    avionics: AvionicsPort
    recorder: RecorderPort
    workers: WorkersPort
    planner: PlannerPort
    store: StorePort
    watchdog: WatchdogPort
    life: LifePort
