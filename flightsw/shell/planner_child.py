"""The planner's process as an adapter: asked by the core, restarted when it ends, killed when it is silent.

A planner that says nothing for ``SILENCE_S`` after the deadline of a request is stopped, or stuck where no deadline
reaches it: it is killed, and its supervisor starts another. Until then, and while none runs, the core follows the
plan in hand and then governs in closed form.

``executions`` moves with every frame in which the planner owes nothing, so it stands still exactly while an answer
is overdue or on its way.
"""

import sys
from collections.abc import Sequence
from typing import Final

from flightsw.core.plan import Plan, PlanRequest
from flightsw.planner.protocol import Solve, decode_plan

from .children import Exit, Process
from .clock import now_s

PLANNER_COMMAND: Final = (sys.executable, "-m", "flightsw.planner")
SILENCE_S: Final = 10.0
"""Also the time a new planner has to load its solver."""
PLANS_PER_FRAME_MAX: Final = 4


class PlannerError(Exception):
    """The planner's process ended."""


class PlannerProcess(Process[Plan]):
    """The child itself."""

    def decode(self, body: bytes) -> Plan:
        """A plan; ``msgspec.MsgspecError`` when it is none."""
        return decode_plan(body)


class Planner:
    """``run`` serves one process and raises ``PlannerError`` at its end; requests go out with ``ask``."""

    def __init__(self, command: Sequence[str], niceness: int, deadline_s: float) -> None:
        """``deadline_s`` is that of a usual request."""
        self._command = tuple(command) or PLANNER_COMMAND
        self._niceness = niceness
        self._deadline_s = deadline_s
        self._child: PlannerProcess | None = None
        self._overdue_s: float | None = None
        self._executions = 0

    async def run(self) -> None:
        """Start the planner and wait for its end."""
        self._overdue_s = None
        child = self._child = PlannerProcess("planner", self._command, niceness=self._niceness)
        end = await child.run()
        raise PlannerError(end.reason)

    def ask(self, request: PlanRequest, deadline_s: float) -> bool:
        """Send a request; False when nobody hears it."""
        if self._child is None or not self._child.send(Solve(request, deadline_s)):
            return False
        if self._overdue_s is None:
            self._overdue_s = now_s() + deadline_s + SILENCE_S
        return True

    def take(self) -> tuple[Plan, ...]:
        """Answers since the last call, oldest first."""
        if self._child is None:
            return ()
        plans = tuple(m for m in self._child.take(PLANS_PER_FRAME_MAX) if not isinstance(m, Exit))
        if plans:
            self._overdue_s = None
        if self._overdue_s is None:
            self._executions += 1
        elif self._child.pid and now_s() > self._overdue_s:
            self._child.kill(f"silent for {SILENCE_S:g} s after its deadline")
        return plans

    @property
    def silence_s(self) -> float:
        """Longest time between two moves of ``executions`` of a sound planner."""
        return self._deadline_s + SILENCE_S

    @property
    def executions(self) -> int:
        """Frames since boot in which nothing was owed."""
        return self._executions
