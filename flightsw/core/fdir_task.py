"""Shipped limits of the daemon's tasks: workers, adapters, memory, processor, frames.

Workers and adapters are mended by the payload's life cycle, their supervision and the restart ladder; here the
ground is told when that does not help. Memory that grows ends in a restart before the kernel ends the process.
Frames that overrun on a full machine are given room: the payload gives way.
"""

from typing import TYPE_CHECKING, Final

from flightsw.link.limit_tables import Response

from .fdir_rows import Act, Rows, watch
from .lifecycle import Life

if TYPE_CHECKING:
    from .vehicle import Config

act: Final = Act("task")
RESTARTS_TOLD: Final = 9.0
"""Restarts since boot beyond which the ground is told that they do not help."""


def rows(config: "Config") -> Rows:
    """Watchpoints and actionpoints for this configuration."""
    limits = config.fdir
    # fmt: off
    return Rows(
        (
            watch(610, "training.quarantined", "train.state", "==", float(Life.QUARANTINED)),
            watch(611, "training.restarts", "train.restarts", ">", RESTARTS_TOLD),
            watch(615, "inference.quarantined", "infer.state", "==", float(Life.QUARANTINED)),
            watch(616, "inference.restarts", "infer.restarts", ">", RESTARTS_TOLD),
            watch(620, "adapters.failed", "adapters.failed", ">", 0.0),
            watch(621, "adapters.restarts", "adapters.restarts", ">", RESTARTS_TOLD),
            watch(630, "memory.high", "daemon.rss_mb", ">", 0.5 * limits.rss_max_mb, 0.45 * limits.rss_max_mb),
            watch(631, "memory.grows", "daemon.rss_mb", ">", limits.rss_max_mb, 0.9 * limits.rss_max_mb),
            watch(640, "processor.busy", "daemon.cpu_fraction", ">", 0.9, 0.7),
            watch(650, "frames.skipped", "frame_overruns", ">", limits.overruns_per_s, rate=True, samples=20),
            watch(660, "events.storm", "events.throttled", ">", 1.0, rate=True, samples=10),
        ),
        (
            act(611, "training.quarantined", 610, Response.REPORT, after_s=5.0),
            act(612, "training.restarts", 611, Response.REPORT, release_s=30.0),
            act(616, "inference.quarantined", 615, Response.REPORT, after_s=5.0),
            act(617, "inference.restarts", 616, Response.REPORT, release_s=30.0),
            act(621, "adapters.failed", 620, Response.REPORT, after_s=5.0),
            act(622, "adapters.restarts", 621, Response.REPORT, release_s=30.0),
            act(631, "memory.high", 630, Response.REPORT, after_s=30.0, release_s=60.0),
            act(632, "memory.checkpoint", 631, Response.CHECKPOINT, after_s=30.0, release_s=60.0),
            act(633, "memory.restart", 631, Response.RESTART, after_s=60.0, release_s=60.0),
            act(641, "processor.busy", 640, Response.REPORT, after_s=60.0, release_s=60.0),
            act(651, "frames.skipped", 650, Response.REPORT, release_s=60.0),
            act(652, "frames.throttle", 650, Response.THROTTLE, 0.5, after_s=60.0, release_s=60.0),
            act(661, "events.storm", 660, Response.REPORT, release_s=60.0),
        ),
    )
    # fmt: on
