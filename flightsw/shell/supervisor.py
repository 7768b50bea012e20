"""Supervision: three tiers, and what is restarted when.

1. The executive fails: the daemon ends at once (``daemon``); a repeat comes up in SAFE (``boot_record``).
2. An adapter fails (radio, avionics, probe): it is restarted here with back-off and reported in
   ``AdapterStatus``. Too many restarts within a window make it *failed*, which is the core's to judge; it is
   still retried, slowly, because a cable may be plugged in again.
3. A worker fails: killed, reported, restarted by the core's payload policy (``children`` only carries it out).

The policy is a pure function of the history; the mechanism is one loop. Liveness is shown, not declared:
``executions`` moves when the adapter did its work, and while it is down, when its supervisor attends to it: a known
failure is in hand here; one that claims to work and does not move is what the watchdog is for.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec

from flightsw.core.inputs import AdapterStatus

from .clock import now_s

HISTORY_MAX: Final = 1024
ATTEND_S: Final = 0.1
REASON_CHARACTERS_MAX: Final = 200

_log: Final = logging.getLogger("flightd")


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Back-off from ``backoff_first_s`` doubling to ``backoff_max_s``; *failed* over ``restarts_max`` in
    ``window_s``."""

    backoff_first_s: float
    backoff_max_s: float
    restarts_max: int
    window_s: float


class Decision(msgspec.Struct, frozen=True):
    """What follows a failure: the pause, whether the adapter is failed, and the history to keep."""

    pause_s: float
    failed: bool
    history: tuple[float, ...]


def decide(policy: RestartPolicy, history: tuple[float, ...], at_s: float) -> Decision:
    """Judge a failure at ``at_s``; ``history`` holds the times of earlier ones, oldest first."""
    recent = (*(t for t in history if at_s - t < policy.window_s), at_s)[-HISTORY_MAX:]
    # The exponent is bounded, so that a long outage does not make a huge number first.
    doublings = min(len(recent) - 1, 32)
    pause_s = min(policy.backoff_first_s * 2.0**doublings, policy.backoff_max_s)
    return Decision(pause_s, len(recent) > policy.restarts_max, recent)


class Adapter:
    """One supervised adapter. ``run`` serves until it fails; ``executions`` counts what it did."""

    def __init__(
        self,
        name: str,
        run: Callable[[], Awaitable[None]],
        executions: Callable[[], int],
        policy: RestartPolicy,
        *,
        mandatory: bool,
        cycle_s: float = 1.0,
    ) -> None:
        """``cycle_s`` is the longest time between two moves of ``executions`` while all is well."""
        self._name = name
        self._run = run
        self._executions = executions
        self._policy = policy
        self._mandatory = mandatory
        self._cycle_s = cycle_s
        self._history: tuple[float, ...] = ()
        self._restarts = 0
        self._attended = 0
        self._failed = self._down = False
        self._reason = ""

    def status(self) -> AdapterStatus:
        """What the core is told in each frame."""
        self._settle(now_s())
        return AdapterStatus(
            name=self._name,
            executions=self._executions() + self._attended,
            restarts=self._restarts,
            failed=self._failed,
            mandatory=self._mandatory,
            reason=self._reason,
            cycle_s=self._cycle_s,
        )

    async def supervise(self) -> None:
        """Run, and run again after each failure, until cancelled."""
        while True:
            self._down = False
            try:
                await self._run()
                reason = "ended without a reason"
            except Exception as error:
                # Any failure of an adapter stays in its tier; a bug in it is told with its type.
                reason = _sentence(error)
            decision = decide(self._policy, self._history, now_s())
            self._history, self._failed, self._down = decision.history, decision.failed, True
            self._restarts += 1
            # The core reports it as an event; the pause is for whoever looks closer.
            _log.debug("%s: %s; next try in %g s", self._name, reason, decision.pause_s)
            self._reason = reason
            retry_s = now_s() + decision.pause_s
            while (rest_s := retry_s - now_s()) > 0.0:
                self._attended += 1
                await asyncio.sleep(min(rest_s, ATTEND_S))

    def _settle(self, at_s: float) -> None:
        """A whole window without a failure makes an adapter sound again."""
        if self._failed and not self._down and at_s - self._history[-1] >= self._policy.window_s:
            self._failed, self._history, self._reason = False, (), ""


def statuses(adapters: Iterable[Adapter]) -> tuple[AdapterStatus, ...]:
    """Status of each adapter, in order."""
    return tuple(adapter.status() for adapter in adapters)


def _sentence(error: Exception) -> str:
    from_us = not isinstance(error, (OSError, ValueError)) and type(error).__module__ == "builtins"
    text = f"{type(error).__name__}: {error}" if from_us else str(error) or type(error).__name__
    return text[:REASON_CHARACTERS_MAX]
