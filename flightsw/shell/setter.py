"""The setter as an adapter: started only when the configuration asks for it, ended so that it can clean up.

The setter puts the card's settings back at end of file, so it is not on the leash: when the daemon is killed, the
kernel closes the pipe and the setter does the rest. At an orderly end it is asked to stop and waited for.
"""

import asyncio
import contextlib
import logging
import sys
from typing import Final

from flightsw.gpu import protocol

from .children import Child
from .clock import now_s

COMMAND: Final = (sys.executable, "-m", "flightsw.gpu.setter")
MESSAGES_PER_FRAME_MAX: Final = 16
CYCLE_S: Final = 5.0
"""Longest time between two reports of a sound setter; a change of a Jetson's mode takes seconds."""
RESTORE_S: Final = 30.0
"""How long the end of the daemon waits for settings to be put back."""

_log: Final = logging.getLogger("flightd.setter")


class SetterError(Exception):
    """The setter ended; its last fault is the reason."""


class Setter:
    """One setter process at a time; ``run`` serves it and raises ``SetterError`` at its end."""

    def __init__(self, spec: protocol.SetterSpec) -> None:
        self._spec = spec
        self._child: Child | None = None
        self._heard = 0
        self._fault = ""
        self._idle = False
        self._ended = asyncio.Event()
        self._ended.set()

    async def run(self) -> None:
        """Start the setter and wait for its end. One that only had to put something back is not missed."""
        child = self._child = Child("setter", COMMAND, self._spec, leashed=False)
        self._ended.clear()
        self._fault = ""
        try:
            end = await child.run()
        finally:
            self._ended.set()
        self.take()
        if end.returncode == 0 and not self._spec.wanted:
            self._idle = True
            await asyncio.Event().wait()
        raise SetterError(self._fault or end.reason)

    def take(self) -> None:
        """Read what it says; once a frame."""
        for message in self._child.take(MESSAGES_PER_FRAME_MAX) if self._child else ():
            match message:
                case protocol.Applied(values=values, restored=restored):
                    self._heard += 1
                    if restored and values:
                        _log.warning("put back: %s", _shown(values))
                    elif self._heard == 1 and values:
                        _log.warning("set: %s", _shown(values))
                case protocol.Fault(reason=reason):
                    self._fault = reason
                    _log.error("%s", reason)
                case _:
                    pass

    async def stop(self) -> None:
        """Ask it to put everything back and go, and wait for that."""
        if self._child is None or self._ended.is_set():
            return
        self._child.send(protocol.Stop())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), RESTORE_S)
        self.take()

    @property
    def executions(self) -> int:
        """Reports since boot; time itself when there is nothing left to report."""
        return self._heard + (int(now_s()) if self._idle else 0)


def _shown(values: dict[str, int]) -> str:
    units = {"power_limit": "mW", "clock_lock": "MHz"}
    return ", ".join(
        f"{name} {'default' if value < 0 else value} {units.get(name, '')}".strip()
        for name, value in values.items()
    )
