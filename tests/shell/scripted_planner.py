"""A planner double that misbehaves on order, by ``planner.command``: ``scripted_planner.py MANNER``.

Without a bad manner it answers at once with 300 W in every step. It needs no solver.
"""

import signal
import sys

from flightsw.core.plan import Plan
from flightsw.gpu.channel import Pipe
from flightsw.planner.protocol import Solve, decode_solve


class Requests(Pipe[Solve]):
    def decode(self, body: bytes) -> Solve:
        return decode_solve(body)


def main(manner: str) -> int:
    pipe = Requests.on_standard_streams()
    while (message := pipe.receive()) is not None:
        asked = message.request
        count = len(asked.steps_s)
        plan = {
            "id": asked.id,
            "world_s": asked.world_s,
            "steps_s": asked.steps_s,
            "gpu_power_w": (300.0,) * count,
            "energy_j": (asked.energy_j,) * count,
            "gpu_degc": (asked.gpu_degc,) * count,
            "radiator_degc": (asked.radiator_degc,) * count,
        }
        match manner:
            case "sleeps":
                signal.pause()
            case "mute":
                continue
            case "dies":
                print("no licence for this solver", file=sys.stderr)
                return 3
            case "garbage":
                # No answer at all, but whole and valid msgpack.
                pipe.send(Solve(asked, 1.0))
            case "empty":
                pipe.send(Plan(id=asked.id, world_s=asked.world_s))
            case "nan":
                pipe.send(Plan(**plan | {"gpu_power_w": (float("nan"),) * count}))
            case "other":
                pipe.send(Plan(**plan | {"id": asked.id + 1}))
            case "greedy":
                pipe.send(Plan(**plan | {"gpu_power_w": (1e6,) * count}))
            case _:
                pipe.send(Plan(**plan))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
