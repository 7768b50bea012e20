"""Shipped limits of storage: room on the disk, the recorder, checkpoints that do not come.

Work that cannot be saved is worth no energy: when the disk is full, or checkpoints have failed for long, the
payload is paused. A checkpoint is tried once more while there is still room for it.
"""

from typing import TYPE_CHECKING, Final

from flightsw.link.limit_tables import Response

from .fdir_rows import Act, Rows, watch
from .lifecycle import Life

if TYPE_CHECKING:
    from .vehicle import Config

act: Final = Act("storage")
OVERDUE_MIN_S: Final = 1800.0
"""A checkpoint is not overdue before this, however short its interval is (mission time)."""


def rows(config: "Config") -> Rows:
    """Watchpoints and actionpoints for this configuration."""
    limits = config.fdir
    overdue_s = max(5.0 * config.checkpoint.interval_world_s, OVERDUE_MIN_S)
    overdue = (530, 531, "and")
    # fmt: off
    return Rows(
        (
            watch(510, "disk.low", "daemon.disk_free_mb", "<", limits.disk_low_mb, 1.1 * limits.disk_low_mb),
            watch(511, "disk.full", "daemon.disk_free_mb", "<", 0.2 * limits.disk_low_mb, 0.4 * limits.disk_low_mb),
            watch(520, "recorder.sheds", "recorder.shed", ">", 0.0, rate=True, samples=5),
            watch(530, "checkpoint.overdue", "checkpoint.age_s", ">", overdue_s),
            watch(531, "training.saves", "train.state", "==", float(Life.RUNNING)),
            watch(540, "checkpoint.fails", "checkpoint.failed", ">", 0.0, rate=True),
        ),
        (
            act(511, "disk.low", 510, Response.REPORT, after_s=10.0, release_s=60.0),
            act(512, "disk.checkpoint", 510, Response.CHECKPOINT, after_s=10.0, release_s=60.0),
            act(513, "disk.pause", 511, Response.PAUSE, after_s=60.0, release_s=60.0),
            act(521, "recorder.sheds", 520, Response.REPORT, release_s=60.0),
            act(531, "checkpoint.again", overdue, Response.CHECKPOINT, after_s=30.0, release_s=0.0),
            act(532, "checkpoint.overdue", overdue, Response.REPORT, after_s=120.0, release_s=0.0),
            act(533, "checkpoint.pause", overdue, Response.PAUSE, after_s=1800.0, release_s=0.0),
            act(541, "checkpoint.fails", 540, Response.REPORT, release_s=60.0),
        ),
    )
    # fmt: on
