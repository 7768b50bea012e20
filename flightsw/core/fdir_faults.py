"""Every fault has a response: the catalogue of what can go wrong, and who answers it.

A fault is answered by one or more of

- *hard*: a cause of SAFE in code, which no table can unload (``mode.CAUSES``);
- *actions*: actionpoints of the shipped table, by id;
- *ladder*: a trigger of a worker's life cycle (``lifecycle``), or another answer that ``LADDERS`` names.

A test holds the catalogue complete: every hard cause, every shipped actionpoint and every trigger that is a failure
stands here, and nothing that does not exist.
"""

from typing import Final

from msgspec import Struct

LADDERS: Final[dict[str, str]] = {
    "START_OVERDUE": "killed, restarted with back-off, quarantined",
    "STOP_OVERDUE": "killed",
    "HUNG": "killed, restarted from its last verified checkpoint",
    "EXIT_FAILED": "restarted with back-off from its last verified checkpoint",
    "EXIT_TOO_OFTEN": "quarantined and tried slowly; when every job is, the daemon restarts (restart ladder)",
    "checkpoint_ring": "the generation before it is restored",
    "adapter": "restarted with back-off; failed for long, the daemon restarts (restart ladder)",
    "watchdog": "the process is ended and started again from outside",
    "two_copies": "the other copy, then the default, with an event",
    "latch_up": "work saved, the rail off for a while, longer each time, in the end until the ground has looked",
    "correlation": "the old time runs on until frames agree",
    "sense": "the reading is ignored, the last good one stands in, then NaN",
    "recorder": "least important packets are shed first",
}
"""Answers outside of the tables of limits, and what they do."""


class Fault(Struct, frozen=True, kw_only=True):
    """One fault; at least one of ``hard`` (cause of SAFE), ``actions`` (ids) and ``ladder`` answers it."""

    name: str
    text: str
    hard: tuple[str, ...] = ()
    actions: tuple[int, ...] = ()
    ladder: tuple[str, ...] = ()


FAULTS: Final[tuple[Fault, ...]] = (
    # power
    Fault(name="charge", text="The battery runs low", hard=("soc_low", "shed"), actions=(111, 112, 113, 114)),
    Fault(name="sag", text="The bus sags", hard=("undervoltage",), actions=(121, 122, 123, 124, 125)),
    Fault(name="overcurrent", text="The bus is overloaded", actions=(131, 132, 133, 134, 135)),
    Fault(
        name="latch_up",
        text="The GPU's rail draws more than was commanded",
        actions=(142, 143),
        ladder=("latch_up",),
    ),
    Fault(name="stuck_rail", text="The GPU's rail draws although it is off", actions=(151,)),
    Fault(name="array", text="The array gives too little in full sun", actions=(161,)),
    # heat
    Fault(name="node", text="The GPU node is hot", hard=("gpu_hot",), actions=(211, 212, 213, 214, 215)),
    Fault(name="radiator", text="The radiator is hot", hard=("radiator_hot",), actions=(221, 222, 223, 224)),
    Fault(name="battery_hot", text="The battery is hot", actions=(231, 232, 233, 234)),
    Fault(name="battery_cold", text="The battery is too cold to be charged", actions=(241,)),
    # the card and the work on it
    Fault(name="die", text="The die is hot", actions=(311, 312, 313, 314, 315)),
    Fault(name="hbm", text="The card's memory is hot", actions=(316, 317, 318, 319, 320)),
    Fault(name="board_power", text="The card draws more than its maximum", actions=(321, 322, 323, 324, 325)),
    Fault(name="over_budget", text="The card draws more than the governor allows", actions=(326, 327, 328, 329)),
    Fault(name="ecc_corrected", text="Corrected ECC errors come in floods", actions=(331, 332, 333)),
    Fault(name="ecc_uncorrected", text="Data on the card was lost", actions=(335, 336, 337)),
    Fault(name="xid", text="The driver reports a fault of the card", actions=(341, 342, 343)),
    Fault(name="probe", text="NVML falls silent, or never talked", actions=(371, 372, 373, 374, 375, 376, 377)),
    Fault(name="idle_card", text="The card idles although duty is given", actions=(381, 382), ladder=("HUNG",)),
    Fault(name="disobedience", text="The card works although the duty is zero", actions=(386, 387)),
    Fault(name="slow_steps", text="Training steps take too long", actions=(391, 392, 393)),
    Fault(name="loss", text="The training loss diverges", actions=(395, 396)),
    Fault(name="damage", text="A worker's damage cannot be mended", actions=(345, 346, 347)),
    Fault(name="bit_flip", text="A checkpoint is corrupt", ladder=("checkpoint_ring",)),
    # links
    Fault(name="silent_ground", text="The ground is silent", hard=("loss_of_contact",), actions=(411, 412)),
    Fault(name="radio_garbage", text="The radio brings garbage", actions=(421,)),
    Fault(name="avionics", text="The avionics are silent or garbled", hard=("blind",), actions=(431,)),
    Fault(name="bad_reading", text="A sensor reads what it cannot", ladder=("sense",)),
    Fault(name="refused_commands", text="Telecommands are refused in numbers", actions=(441,)),
    Fault(name="dropped", text="Telemetry is dropped on board", actions=(451,)),
    Fault(name="time", text="The onboard time is not known well enough", actions=(461,), ladder=("correlation",)),
    # storage
    Fault(name="disk", text="The disk fills up", actions=(511, 512, 513), ladder=("recorder",)),
    Fault(name="shedding", text="The recorder sheds packets", actions=(521,), ladder=("recorder",)),
    Fault(name="overdue", text="No checkpoint is committed", actions=(531, 532, 533)),
    Fault(name="checkpoint_fails", text="A checkpoint cannot be written", actions=(541,)),
    Fault(name="durable", text="A durable fact is damaged", ladder=("two_copies",)),
    # tasks
    Fault(name="worker_start", text="A worker does not start", ladder=("START_OVERDUE",)),
    Fault(name="worker_stop", text="A worker does not stop", ladder=("STOP_OVERDUE",)),
    Fault(name="worker_dies", text="A worker dies", ladder=("EXIT_FAILED",), actions=(612, 617)),
    Fault(name="worker_hangs", text="A worker hangs", ladder=("HUNG",)),
    Fault(name="quarantine", text="A worker fails too often", ladder=("EXIT_TOO_OFTEN",), actions=(611, 616)),
    Fault(name="adapter", text="An adapter fails", ladder=("adapter",), actions=(621, 622)),
    Fault(name="restarts", text="Restarts of the daemon do not help", hard=("restart_ladder",)),
    Fault(name="memory", text="The daemon's memory grows", actions=(631, 632, 633)),
    Fault(name="processor", text="The daemon keeps its processor busy", actions=(641,)),
    Fault(name="overruns", text="Minor frames overrun", actions=(651, 652), ladder=("watchdog",)),
    Fault(name="storm", text="Events come in a storm", actions=(661,)),
    Fault(name="crashes", text="The daemon crashes again and again", hard=("crash_loop",)),
)
