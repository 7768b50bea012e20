"""Shipped limits of the power system.

The floor in code ends in SAFE when the charge is under ``eps.soc_safe`` or the bus under
``eps.bus_undervoltage_v``. The governor keeps the charge over its own floor, a little higher. The rungs lie
between the two: whatever lets the charge fall there (a wrong array, a cold battery, a load nobody knows), the
payload gives way before SAFE must.

A rail that draws more than the card can take is a latch-up: ``latchup`` cycles it within a few samples. A rail that
draws as much seconds later was not cleared by that, and is left off until the ground has looked.
"""

# ruff: noqa: E501 - the table has one entry per line.

from typing import TYPE_CHECKING, Final

from flightsw.link.limit_tables import Response

from .fdir_rows import Act, Rows, watch
from .governor import least_margins

if TYPE_CHECKING:
    from .vehicle import Config

act: Final = Act("power")


def rows(config: "Config") -> Rows:
    """Watchpoints and actionpoints for this configuration."""
    eps, card, limits = config.eps, config.governor, config.fdir
    span = eps.soc_floor + least_margins(card, eps, config.thermal).soc - eps.soc_safe
    sag_v = eps.bus_recovered_v
    deep_v = (eps.bus_undervoltage_v + eps.bus_recovered_v) / 2
    most_a = 1.25 * (eps.bus_power_w + card.gpu_max_w) / eps.bus_recovered_v
    # fmt: off
    return Rows(
        (
            watch(110, "soc.low", "eps.soc_fraction", "<", eps.soc_safe + 0.5 * span, eps.soc_safe + span, samples=10),
            watch(111, "soc.lower", "eps.soc_fraction", "<", eps.soc_safe + 0.25 * span, eps.soc_safe + 0.75 * span, samples=10),
            watch(120, "bus.sag", "eps.bus_voltage_v", "<", sag_v, sag_v * 1.02, samples=5),
            watch(121, "bus.deep_sag", "eps.bus_voltage_v", "<", deep_v, sag_v, samples=3),
            watch(130, "bus.overcurrent", "eps.bus_current_a", ">", most_a, 0.9 * most_a, samples=5),
            watch(140, "rail.latch_up", "eps.gpu_rail_power_w", ">", 1.2 * card.gpu_max_w, card.gpu_max_w, samples=3),
            watch(150, "rail.off", "eps.gpu_rail", "<", 1.0),
            watch(151, "rail.draws", "eps.gpu_rail_power_w", ">", max(25.0, 0.5 * card.gpu_idle_w), samples=10),
            watch(160, "sun.full", "eps.sun_fraction", ">", 0.9, samples=10),
            watch(161, "array.weak", "eps.array_power_w", "<", 0.25 * eps.array_power_w, 0.3 * eps.array_power_w, samples=10),
            watch(162, "soc.not_full", "eps.soc_fraction", "<", 0.9, 0.91, samples=10),
        ),
        (
            act(111, "soc.throttle", 110, Response.THROTTLE, 0.25, release_s=60.0),
            act(112, "soc.checkpoint", 110, Response.CHECKPOINT, after_s=5.0, release_s=60.0),
            act(113, "soc.pause", 111, Response.PAUSE, after_s=2.0, release_s=60.0),
            act(114, "soc.safe", 111, Response.SAFE, after_s=300.0, release_s=60.0),
            act(121, "bus.throttle", 120, Response.THROTTLE, 0.25, release_s=30.0),
            act(122, "bus.checkpoint", 120, Response.CHECKPOINT, after_s=5.0, release_s=30.0),
            act(123, "bus.pause", 121, Response.PAUSE, after_s=1.0, release_s=30.0),
            act(124, "bus.kill", 121, Response.KILL, after_s=30.0, release_s=30.0),
            act(125, "bus.safe", 121, Response.SAFE, after_s=60.0, release_s=30.0),
            act(131, "overcurrent.throttle", 130, Response.THROTTLE, 0.25, release_s=30.0),
            act(132, "overcurrent.checkpoint", 130, Response.CHECKPOINT, after_s=2.0, release_s=30.0),
            act(133, "overcurrent.pause", 130, Response.PAUSE, after_s=5.0, release_s=30.0),
            act(134, "overcurrent.power_off", 130, Response.POWER_OFF, after_s=15.0, release_s=30.0),
            act(135, "overcurrent.safe", 130, Response.SAFE, after_s=30.0, release_s=30.0),
            act(142, "latch_up.power_off", 140, Response.POWER_OFF, after_s=5.0),
            act(143, "latch_up.safe", 140, Response.SAFE, after_s=15.0),
            act(151, "rail.stuck_on", (150, 151, "and"), Response.REPORT, after_s=10.0),
            act(161, "array.weak", (160, 161, "and", 162, "and"), Response.REPORT, after_s=limits.array_weak_s),
        ),
    )
    # fmt: on
