"""The planner as a process of its own: ``python -m flightsw.planner``.

It reads requests on standard input and answers each on standard output (``protocol``) until the end of its input:
then its daemon is gone. A solver may take long or crash whoever calls it, so it does so here, at a niceness of its
own, and whoever waits for it has a deadline. A request that cannot be planned is answered with a fault and the next
one is awaited; bytes that are no request are dropped and said on standard error.
"""

import signal
import sys

from flightsw.gpu.channel import Pipe

from .protocol import Solve, decode_solve
from .solver import Solver


class Requests(Pipe[Solve]):
    """The planner's end of the pipe."""

    def decode(self, body: bytes) -> Solve:
        """A request; ``msgspec.MsgspecError`` when it is none."""
        return decode_solve(body)


def main() -> int:
    """Answer requests until there are none; returns the exit status."""
    pipe = Requests.on_standard_streams()
    # A terminal's interrupt goes to the whole group; the daemon decides when its planner stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    solver = Solver()
    while (message := pipe.receive()) is not None:
        pipe.send(solver.solve(message.request, message.deadline_s))
    return 0


if __name__ == "__main__":
    sys.exit(main())
