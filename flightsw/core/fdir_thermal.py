"""Shipped limits of temperatures that the bus measures: GPU node, radiator, battery.

The floor in code ends in SAFE above ``thermal.gpu_limit_degc`` and ``thermal.radiator_limit_degc``; the governor
regulates ``governor.least_margins`` below the first. The rungs of the GPU node lie in the last quarter of that
margin, and ten samples in a row keep the sensor's noise out. Only these temperatures end in SAFE by heat: they
can still be read when the rail is off, so that SAFE can also end by itself.
"""

# ruff: noqa: E501 - the table has one entry per line.

from typing import TYPE_CHECKING, Final

from flightsw.link.limit_tables import Response

from .fdir_rows import Act, Rows, watch
from .governor import least_margins

if TYPE_CHECKING:
    from .vehicle import Config

act: Final = Act("thermal")


def rows(config: "Config") -> Rows:
    """Watchpoints and actionpoints for this configuration."""
    heat, limits = config.thermal, config.fdir
    margin_k = least_margins(config.governor, config.eps, heat).gpu_k
    gpu, radiator, battery = heat.gpu_limit_degc, heat.radiator_limit_degc, limits.battery_hot_degc
    # fmt: off
    return Rows(
        (
            watch(210, "node.warm", "thermal.gpu_degc", ">", gpu - 0.25 * margin_k, gpu - margin_k, samples=10),
            watch(220, "radiator.warm", "thermal.radiator_degc", ">", radiator - 5.0, radiator - 8.0, samples=10),
            watch(221, "radiator.hot", "thermal.radiator_degc", ">", radiator - 2.0, radiator - 5.0, samples=10),
            watch(230, "battery.warm", "eps.battery_temp_degc", ">", battery, battery - 3.0, samples=10),
            watch(231, "battery.hot", "eps.battery_temp_degc", ">", battery + 10.0, battery, samples=10),
            watch(240, "battery.cold", "eps.battery_temp_degc", "<", limits.battery_cold_degc, limits.battery_cold_degc + 2.0, samples=10),
        ),
        (
            act(211, "node.throttle", 210, Response.THROTTLE, 0.3, release_s=30.0),
            act(212, "node.checkpoint", 210, Response.CHECKPOINT, after_s=5.0, release_s=30.0),
            act(213, "node.pause", 210, Response.PAUSE, after_s=15.0, release_s=30.0),
            act(214, "node.kill", 210, Response.KILL, after_s=120.0, release_s=30.0),
            act(215, "node.safe", 210, Response.SAFE, after_s=180.0, release_s=30.0),
            act(221, "radiator.throttle", 220, Response.THROTTLE, 0.3, release_s=60.0),
            act(222, "radiator.checkpoint", 220, Response.CHECKPOINT, after_s=10.0, release_s=60.0),
            act(223, "radiator.pause", 221, Response.PAUSE, after_s=10.0, release_s=60.0),
            act(224, "radiator.safe", 221, Response.SAFE, after_s=300.0, release_s=60.0),
            act(231, "battery.throttle", 230, Response.THROTTLE, 0.3, after_s=10.0, release_s=60.0),
            act(232, "battery.checkpoint", 230, Response.CHECKPOINT, after_s=30.0, release_s=60.0),
            act(233, "battery.pause", 230, Response.PAUSE, after_s=300.0, release_s=60.0),
            act(234, "battery.safe", 231, Response.SAFE, after_s=10.0, release_s=60.0),
            act(241, "battery.cold", 240, Response.REPORT, after_s=60.0),
        ),
    )
    # fmt: on
