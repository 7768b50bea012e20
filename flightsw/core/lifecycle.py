"""The life of a GPU job as a table: (state, trigger) → (next state, action).

    OFF ─start→ STARTING ─ready→ RUNNING ─stop→ STOPPING ─exit→ OFF
                   └────exit, time-out, hang: killed, reaped────→ FAILED ─back-off→ STARTING
                                       too often → QUARANTINED ─slow retry→ STARTING

A trigger without a row for the state means nothing there. Here is only what may follow what; when a trigger comes
is decided in ``payload`` (time and permission), ``worker_reports`` (what the worker tells) and ``duty`` (hangs),
and ``job.fire`` takes the row.

Only a reaped worker counts as gone: a kill leads to STOPPING, the exit report out of it, so no job ever has
two processes.
"""

from enum import Enum, IntEnum, auto, unique
from typing import Final

from flightsw.link.dictionary import JOB_STATES


@unique
class Life(IntEnum):
    """State of a job; codes of ``JOB_STATES``."""

    OFF = JOB_STATES.index("OFF")
    STARTING = JOB_STATES.index("STARTING")
    RUNNING = JOB_STATES.index("RUNNING")
    STOPPING = JOB_STATES.index("STOPPING")
    FAILED = JOB_STATES.index("FAILED")
    QUARANTINED = JOB_STATES.index("QUARANTINED")


@unique
class Trigger(Enum):
    """What moves a job from one state to the next."""

    START = auto()
    READY = auto()
    STOP = auto()
    CUT = auto()
    EXIT_AS_ASKED = auto()
    EXIT_DONE = auto()
    EXIT_FAILED = auto()
    EXIT_TOO_OFTEN = auto()
    START_OVERDUE = auto()
    STOP_OVERDUE = auto()
    HUNG = auto()
    RETRY = auto()
    KILL_ORDERED = auto()


@unique
class Action(Enum):
    """What is asked of the shell on a transition."""

    NONE = auto()
    START = auto()
    STOP = auto()
    KILL = auto()


LIFECYCLE: Final[dict[tuple[Life, Trigger], tuple[Life, Action]]] = {
    (Life.OFF, Trigger.START): (Life.STARTING, Action.START),
    (Life.STARTING, Trigger.READY): (Life.RUNNING, Action.NONE),
    (Life.STARTING, Trigger.STOP): (Life.STOPPING, Action.STOP),
    (Life.STARTING, Trigger.CUT): (Life.STOPPING, Action.KILL),
    (Life.STARTING, Trigger.START_OVERDUE): (Life.STOPPING, Action.KILL),
    (Life.STARTING, Trigger.EXIT_DONE): (Life.OFF, Action.NONE),
    (Life.STARTING, Trigger.EXIT_FAILED): (Life.FAILED, Action.NONE),
    (Life.STARTING, Trigger.EXIT_TOO_OFTEN): (Life.QUARANTINED, Action.NONE),
    (Life.RUNNING, Trigger.STOP): (Life.STOPPING, Action.STOP),
    (Life.RUNNING, Trigger.CUT): (Life.STOPPING, Action.KILL),
    (Life.RUNNING, Trigger.HUNG): (Life.STOPPING, Action.KILL),
    (Life.RUNNING, Trigger.EXIT_DONE): (Life.OFF, Action.NONE),
    (Life.RUNNING, Trigger.EXIT_FAILED): (Life.FAILED, Action.NONE),
    (Life.RUNNING, Trigger.EXIT_TOO_OFTEN): (Life.QUARANTINED, Action.NONE),
    (Life.STOPPING, Trigger.CUT): (Life.STOPPING, Action.KILL),
    (Life.STOPPING, Trigger.STOP_OVERDUE): (Life.STOPPING, Action.KILL),
    (Life.STOPPING, Trigger.EXIT_AS_ASKED): (Life.OFF, Action.NONE),
    (Life.STOPPING, Trigger.EXIT_FAILED): (Life.FAILED, Action.NONE),
    (Life.STOPPING, Trigger.EXIT_TOO_OFTEN): (Life.QUARANTINED, Action.NONE),
    (Life.STARTING, Trigger.KILL_ORDERED): (Life.STOPPING, Action.KILL),
    (Life.RUNNING, Trigger.KILL_ORDERED): (Life.STOPPING, Action.KILL),
    (Life.STOPPING, Trigger.KILL_ORDERED): (Life.STOPPING, Action.KILL),
    (Life.FAILED, Trigger.RETRY): (Life.STARTING, Action.START),
    (Life.FAILED, Trigger.STOP): (Life.OFF, Action.NONE),
    (Life.QUARANTINED, Trigger.RETRY): (Life.STARTING, Action.START),
    (Life.QUARANTINED, Trigger.STOP): (Life.OFF, Action.NONE),
}

WITH_PROCESS: Final = frozenset((Life.STARTING, Life.RUNNING, Life.STOPPING))
