"""What the daemon and the planner say to each other, over the same kind of pipe as with any other child.

The daemon sends ``Solve``, the planner answers each with one ``core.plan.Plan``, in order. There is no first
message and no state: a planner that was restarted answers the next request like any other. No numpy here, the
daemon imports this.
"""

from typing import Final

import msgspec

from flightsw.core.plan import Plan, PlanRequest


class Solve(msgspec.Struct, frozen=True, tag_field="kind", tag="solve"):
    """Answer this within ``deadline_s`` of machine time, with a plan or with a fault."""

    request: PlanRequest
    deadline_s: float


_solve: Final = msgspec.msgpack.Decoder(Solve)
_plan: Final = msgspec.msgpack.Decoder(Plan)


def decode_solve(body: bytes) -> Solve:
    """A message to the planner; ``msgspec.MsgspecError`` when it is none."""
    return _solve.decode(body)


def decode_plan(body: bytes) -> Plan:
    """A message of the planner; ``msgspec.MsgspecError`` when it is none."""
    return _plan.decode(body)
