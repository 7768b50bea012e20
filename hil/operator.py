"""The bench's operator: sends telecommands through the real ground station, on the scenario's schedule.

He uses ``ground.client`` like any program of a mission. Waiting for reports blocks, so each command has a
thread of its own from a small pool; every wait is bounded, and the pool is let go of at the end of the run,
when the station is stopped.
"""

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from ground.client import GroundError, StationClient, StationStatus

from .evidence import CommandRecord

AT_ONCE_MAX: Final = 12
ANSWER_S: Final = 90.0
POLL_S: Final = 0.5
STATION_START_S: Final = 20.0


class Order(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One telecommand to be sent at a mission instant."""

    planned_s: float
    id: str
    name: str
    arguments: dict[str, Any]


class Sent(msgspec.Struct, kw_only=True):
    """An order that was given, and the command id that the station gave it (0 before its answer)."""

    order: Order
    sent_s: float
    command: int = 0
    outcome: str = "sent"
    detail: str = ""

    def record(self) -> CommandRecord:
        """What the evidence keeps."""
        return CommandRecord(
            id=self.order.id,
            name=self.order.name,
            planned_s=self.order.planned_s,
            sent_s=self.sent_s,
            outcome=self.outcome,
            detail=self.detail,
        )


class Operator:
    """Gives orders when they are due and watches the station's status."""

    def __init__(self, socket_path: Path, orders: list[Order]) -> None:
        self._socket_path = socket_path
        self._waiting = sorted(orders, reverse=True)
        self._pool = ThreadPoolExecutor(AT_ONCE_MAX, thread_name_prefix="operator")
        self._watching = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="station-watch", daemon=True)
        self.sent: list[Sent] = []
        self.status: StationStatus | None = None

    def wait_for_station(self, timeout_s: float = STATION_START_S) -> str:
        """Until the station answers; "" or why it does not. Then its status is polled."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                with StationClient(self._socket_path) as client:
                    self.status = client.status()
                break
            except GroundError as error:
                if time.monotonic() >= deadline_s:
                    return str(error)
                time.sleep(0.05)
        self._watcher.start()
        return ""

    def tick(self, world_s: float) -> list[str]:
        """Give every order that is due; returns a line to announce for each."""
        said: list[str] = []
        while self._waiting and self._waiting[-1].planned_s <= world_s:
            order = self._waiting.pop()
            given = Sent(order=order, sent_s=world_s)
            self.sent.append(given)
            self._pool.submit(self._give, given)
            said.append(f"operator sends {order.name}")
        return said

    def close(self) -> None:
        """Stop watching, give up waiting orders. Threads that still wait end with the station."""
        self._watching.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _give(self, given: Sent) -> None:
        try:
            with StationClient(self._socket_path) as client:
                result = client.send(given.order.name, given.order.arguments, "completion", ANSWER_S)
        except GroundError as error:
            given.outcome, given.detail = "no_station", str(error)
            return
        given.command, given.outcome = result.id, result.outcome
        given.detail = ": ".join(part for part in (result.code, result.text) if part)

    def _watch(self) -> None:
        with contextlib.closing(StationClient(self._socket_path)) as client:
            while not self._watching.wait(POLL_S):
                with contextlib.suppress(GroundError):
                    self.status = client.status()
