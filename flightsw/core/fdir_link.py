"""Shipped limits of the links: the ground, the radio wire, the avionics wire, time.

A silent ground is answered before the hard row ends in SAFE (``mode.loss_of_contact_s``): after a third of that
time it is told, after two thirds the daemon restarts once, which also makes the radio anew. Garbage on a wire is
told; if nothing but garbage comes from the avionics, the sensors go stale, and that has its own hard row.
"""

# ruff: noqa: E501 - the table has one entry per line.

from typing import TYPE_CHECKING, Final

from flightsw.link.limit_tables import Response

from .correlation import SYNCHRONISED
from .fdir_rows import Act, Rows, watch

if TYPE_CHECKING:
    from .vehicle import Config

act: Final = Act("link")


def rows(config: "Config") -> Rows:
    """Watchpoints and actionpoints for this configuration."""
    lost_s, limits = config.mode.loss_of_contact_s, config.fdir
    # fmt: off
    return Rows(
        (
            watch(410, "ground.silent", "contact.silence_s", ">", lost_s / 3),
            watch(411, "ground.silent_long", "contact.silence_s", ">", lost_s * 2 / 3),
            watch(420, "radio.garbage", "radio.frames_bad", ">", limits.frames_bad_per_s, rate=True, samples=5),
            watch(430, "avionics.garbage", "avionics.frames_bad", ">", limits.frames_bad_per_s, rate=True, samples=5),
            watch(440, "commands.refused", "tc.rejected", ">", 1.0, rate=True, samples=10),
            watch(450, "telemetry.dropped", "tm.dropped", ">", 1.0, rate=True, samples=5),
            watch(460, "time.unsure", "time_quality", "!=", float(SYNCHRONISED)),
        ),
        (
            act(411, "ground.silent", 410, Response.REPORT),
            act(412, "ground.restart", 411, Response.RESTART, once=True),
            act(421, "radio.garbage", 420, Response.REPORT),
            act(431, "avionics.garbage", 430, Response.REPORT),
            act(441, "commands.refused", 440, Response.REPORT),
            act(451, "telemetry.dropped", 450, Response.REPORT),
            act(461, "time.unsure", 460, Response.REPORT, after_s=120.0),
        ),
    )
    # fmt: on
