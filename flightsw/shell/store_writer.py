"""The store's thread: small facts are written without the control loop waiting for fsync.

Facts wait in a table of one entry a key, so the newest of a key wins and the table cannot grow past ``KEYS_MAX``. A
fault is shown for ``FAULT_SHOWN_S``, long enough for several frames to see it.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Final

from .clock import now_s
from .store import Store

KEYS_MAX: Final = 128
FAULT_SHOWN_S: Final = 3.0
CLOSE_TIMEOUT_S: Final = 10.0


class StoreWriter:
    """Writes facts of a ``Store`` on a thread of its own; the thread starts at once."""

    def __init__(self, store: Store, faults: Iterable[str] = ()) -> None:
        """``faults`` are those of earlier reads, to be shown with our own."""
        self._store = store
        self._wake = threading.Condition()
        self._orders: dict[str, Callable[[], str]] = {}
        self._closing = False
        self._fault, self._fault_until_s = "", 0.0
        for fault in faults:
            self.report(fault)
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def put(self, key: str, payload: bytes) -> None:
        """Write ``payload`` under ``key`` soon."""
        self.order(key, lambda: self._store.save(key, payload))

    def order(self, key: str, write: Callable[[], str]) -> None:
        """Do ``write``, which returns a fault or "", on the thread; a waiting order of the same key is replaced."""
        with self._wake:
            if key not in self._orders and len(self._orders) >= KEYS_MAX:
                self._show(f"more than {KEYS_MAX} facts wait to be written; {key!r} is lost")
                return
            self._orders[key] = write
            self._wake.notify()

    def report(self, fault: str) -> None:
        """Show a fault beside those that were not seen yet."""
        with self._wake:
            self._show(fault)

    @property
    def fault(self) -> str:
        """What went wrong lately, or ""."""
        with self._wake:
            return self._fault if now_s() < self._fault_until_s else ""

    def close(self) -> None:
        """Write what waits, then end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _show(self, fault: str) -> None:
        at_s = now_s()
        known = self._fault if at_s < self._fault_until_s else ""
        self._fault = fault if fault in known or not known else f"{known}; {fault}"[:500]
        self._fault_until_s = at_s + FAULT_SHOWN_S

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: bool(self._orders) or self._closing)
                orders, self._orders = self._orders, {}
                closing = self._closing
            for write in orders.values():
                if fault := write():
                    self.report(f"store: {fault}")
            if closing and not orders:
                return
