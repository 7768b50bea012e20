"""Shipped limits of the card and of the work on it (R9).

The rungs are throttle → checkpoint → pause → kill → power cycle or power off, each after its own time; the card's
own faults end with the rail and with SAFE by telecommand, never with SAFE that leaves by itself: with the rail
off the card cannot tell that it is well again.

*What the memory holds is suspect* after an uncorrected ECC error, a grave XID, a diverging loss, or damage that a
worker found and could not mend. Such a fault is answered by KILL without a checkpoint before it: the workers come back from the last verified generation.
Repeated kills are failures of the job, so the payload's own ladder ends in quarantine.

A card that never reported (no probe, no NVML) is only told of. One that reported and fell silent is trusted less
by the minute.
"""

# ruff: noqa: E501 - the table has one entry per line.

from typing import TYPE_CHECKING, Final

from flightsw.link.limit_tables import Response

from .fdir_rows import Act, Rows, watch
from .lifecycle import Life

if TYPE_CHECKING:
    from .vehicle import Config

act: Final = Act("gpu")
LOST_XIDS: Final = (62, 74, 79, 119, 120)
"""XIDs after which the card does nothing any more until it is reset: halted, NVLink or bus lost, GSP dead."""


def rows(config: "Config") -> Rows:
    """Watchpoints and actionpoints for this configuration."""
    card, limits, guard = config.governor, config.fdir, config.integrity
    die, memory = limits.die_limit_degc, limits.memory_limit_degc
    over_w = card.gpu_max_w * limits.board_power_factor
    swing_w = 0.15 * (card.gpu_max_w - card.gpu_idle_w)
    lost = tuple(range(351, 351 + len(LOST_XIDS)))
    any_lost = (lost[0], *(token for id in lost[1:] for token in (id, "or")))
    idle, held = (380, 381, "and", 382, "and"), (370, 371, "and")
    # fmt: off
    return Rows(
        (
            watch(310, "die.warm", "gpu.die_degc", ">", die - 4.0, die - 8.0, samples=3),
            watch(311, "die.hot", "gpu.die_degc", ">", die, die - 4.0, samples=3),
            watch(315, "hbm.warm", "gpu.memory_degc", ">", memory - 4.0, memory - 8.0, samples=3),
            watch(316, "hbm.hot", "gpu.memory_degc", ">", memory, memory - 4.0, samples=3),
            watch(320, "board.over_maximum", "gpu.power_w", ">", over_w, card.gpu_max_w, samples=5),
            watch(325, "board.over_budget", "governor.excess_w", ">", swing_w, 0.5 * swing_w, samples=15),
            watch(330, "ecc.corrected_rate", "gpu.ecc_corrected", ">", limits.ecc_corrected_per_s, rate=True, samples=30),
            watch(335, "ecc.uncorrected", "gpu.ecc_uncorrected", ">", 0.0, rate=True),
            watch(336, "ecc.uncorrected_many", "gpu.ecc_uncorrected", ">=", limits.ecc_uncorrected_max),
            watch(340, "xid.any", "gpu.xid", ">", 0.0),
            watch(341, "xid.grave", "gpu.xid_grave", ">", 0.0),
            watch(345, "integrity.open", "integrity.open", ">", 0.0, rate=True),
            watch(346, "integrity.open_again", "integrity.open_row", ">=", float(guard.open_max)),
            watch(347, "integrity.open_still", "integrity.open_row", ">=", 2.0 * guard.open_max),
            *(watch(id, f"xid.{xid}", "gpu.xid", "==", float(xid)) for id, xid in zip(lost, LOST_XIDS, strict=True)),
            watch(370, "probe.silent", "gpu.age_s", ">", limits.probe_silent_s),
            watch(371, "rail.on", "eps.gpu_rail", ">=", 1.0),
            watch(380, "card.idle", "gpu.utilisation_fraction", "<", 0.02, samples=30),
            watch(381, "duty.given", "governor.duty", ">", 0.3),
            watch(382, "training.runs", "train.state", "==", float(Life.RUNNING)),
            watch(385, "card.busy", "gpu.utilisation_fraction", ">", 0.2, samples=10),
            watch(386, "duty.zero", "governor.duty", "<=", 0.0),
            watch(390, "step.slow", "train.step_time_ratio", ">", limits.step_time_factor, 0.6 * limits.step_time_factor, samples=30),
            watch(395, "loss.rises", "train.loss_rise", ">", limits.loss_rise, 0.5 * limits.loss_rise, samples=10),
        ),
        (
            act(311, "die.throttle", 310, Response.THROTTLE, 0.5, after_s=2.0, release_s=30.0),
            act(312, "die.checkpoint", 311, Response.CHECKPOINT, release_s=30.0),
            act(313, "die.pause", 311, Response.PAUSE, after_s=3.0, release_s=30.0),
            act(314, "die.kill", 311, Response.KILL, after_s=20.0, release_s=30.0),
            act(315, "die.power_off", 311, Response.POWER_OFF, after_s=40.0, release_s=30.0),
            act(316, "hbm.throttle", 315, Response.THROTTLE, 0.5, after_s=2.0, release_s=30.0),
            act(317, "hbm.checkpoint", 316, Response.CHECKPOINT, release_s=30.0),
            act(318, "hbm.pause", 316, Response.PAUSE, after_s=3.0, release_s=30.0),
            act(319, "hbm.kill", 316, Response.KILL, after_s=20.0, release_s=30.0),
            act(320, "hbm.power_off", 316, Response.POWER_OFF, after_s=40.0, release_s=30.0),
            act(321, "board.throttle", 320, Response.THROTTLE, 0.5, release_s=30.0),
            act(322, "board.checkpoint", 320, Response.CHECKPOINT, after_s=10.0, release_s=30.0),
            act(323, "board.pause", 320, Response.PAUSE, after_s=20.0, release_s=30.0),
            act(324, "board.kill", 320, Response.KILL, after_s=40.0, release_s=30.0),
            act(325, "board.power_off", 320, Response.POWER_OFF, after_s=60.0, release_s=30.0),
            act(326, "budget.throttle", 325, Response.THROTTLE, 0.3, release_s=30.0),
            act(327, "budget.checkpoint", 325, Response.CHECKPOINT, after_s=5.0, release_s=30.0),
            act(328, "budget.pause", 325, Response.PAUSE, after_s=15.0, release_s=30.0),
            act(329, "budget.kill", 325, Response.KILL, after_s=45.0, release_s=30.0),
            act(331, "ecc.told", 330, Response.REPORT),
            act(332, "ecc.checkpoint", 330, Response.CHECKPOINT, after_s=30.0),
            act(333, "ecc.throttle", 330, Response.THROTTLE, 0.5, after_s=120.0),
            act(335, "ecc.kill", 335, Response.KILL, release_s=0.0),
            act(336, "ecc.power_cycle", 336, Response.POWER_CYCLE, 30.0, after_s=5.0, once=True),
            act(337, "ecc.safe", 336, Response.SAFE, after_s=600.0),
            act(341, "xid.told", 340, Response.REPORT),
            act(342, "xid.kill", 341, Response.KILL),
            act(343, "xid.power_cycle", any_lost, Response.POWER_CYCLE, 30.0, after_s=5.0, once=True),
            act(345, "integrity.kill", 345, Response.KILL, release_s=0.0),
            act(346, "integrity.power_cycle", 346, Response.POWER_CYCLE, 30.0, after_s=1.0, once=True),
            act(347, "integrity.power_off", 347, Response.POWER_OFF, after_s=1.0),
            act(371, "probe.told", held, Response.REPORT, after_s=5.0),
            act(372, "probe.throttle", held, Response.THROTTLE, 0.5, after_s=30.0),
            act(373, "probe.checkpoint", held, Response.CHECKPOINT, after_s=60.0),
            act(374, "probe.pause", held, Response.PAUSE, after_s=180.0),
            act(375, "probe.kill", held, Response.KILL, after_s=300.0),
            act(376, "probe.power_cycle", held, Response.POWER_CYCLE, 30.0, after_s=600.0, once=True),
            act(377, "probe.never_talked", (370, "stale"), Response.REPORT, after_s=120.0),
            act(381, "card.idle_told", idle, Response.REPORT, after_s=60.0),
            act(382, "card.idle_kill", idle, Response.KILL, after_s=300.0),
            act(386, "card.disobeys_kill", (385, 386, "and"), Response.KILL, after_s=20.0),
            act(387, "card.disobeys_power_cycle", (385, 386, "and"), Response.POWER_CYCLE, 30.0, after_s=60.0, once=True),
            act(391, "step.told", 390, Response.REPORT),
            act(392, "step.checkpoint", 390, Response.CHECKPOINT, after_s=60.0),
            act(393, "step.kill", 390, Response.KILL, after_s=600.0),
            act(395, "loss.told", 395, Response.REPORT),
            act(396, "loss.kill", 395, Response.KILL, after_s=20.0),
        ),
    )
    # fmt: on
