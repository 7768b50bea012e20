"""Which rows of the core's tables a walk has taken: modes, lives of a job, responses of the tables of limits.

A row that is taken is recognised from outside by what changed and what was said of it, so nothing in the core has
to count. Rows that no walk can take are listed with the reason; any other row that was not taken is a hole in the
exploration, and fails it.
"""

from typing import Final

from flightsw.core import responses
from flightsw.core.effects import KillWorker
from flightsw.core.fdir import STANDING
from flightsw.core.lifecycle import LIFECYCLE, Action, Life, Trigger
from flightsw.core.mode import TRANSITIONS, Transition
from flightsw.link.limit_tables import Response
from flightsw.link.schema import Mode

from .exploration_model import Moment, Node, said
from .exploration_walks import ACTIONS

UNREACHABLE: Final[dict[str, str]] = {}
"""Row → why nothing leads there."""
_TRIGGER_SAID: Final = (
    ("power rail off", Trigger.CUT),
    ("not ready within", Trigger.START_OVERDUE),
    ("no progress", Trigger.HUNG),
    ("did not stop in time", Trigger.STOP_OVERDUE),
    ("actionpoint", Trigger.KILL_ORDERED),
)


def rows() -> tuple[str, ...]:
    """Every row of every table."""
    return (
        *(_mode_row(row) for row in TRANSITIONS),
        *(_life_row(life, trigger) for life, trigger in LIFECYCLE),
        *(_response_row(response) for response in Response if response in (*responses.ROWS, *STANDING)),
    )


def taken(before: Node, moment: Moment) -> set[str]:
    """Rows that this frame took."""
    old, new = before.vehicle, moment.node.vehicle
    found: set[str] = set()
    if old.boot_count != new.boot_count:
        return found
    events = said(moment.effects)
    if (old.mode.mode, old.mode.cause) != (new.mode.mode, new.mode.cause):
        text = next((text for name, text in events if name == "MODE_CHANGED"), "")
        found |= {_mode_row(row) for row in _candidates(old.mode.mode, new.mode.mode, new.mode.cause, text)}
    found |= _lives(old.payload.jobs[0].life, moment, events)
    if old.fdir.standing is new.fdir.standing:
        return found
    actions = new.fdir.table.actionpoints
    for point, was, now in zip(actions, old.fdir.standing, new.fdir.standing, strict=True):
        if now.count > was.count and point in ACTIONS:
            found.add(_response_row(point.response))
    return found


def _candidates(source: Mode, target: Mode, cause: str | None, text: str) -> list[Transition]:
    rows = [row for row in TRANSITIONS if source in row.sources and row.target is target and row.cause == cause]
    said_rows = [row for row in rows if row.reason in text]
    # The longest reason is the one that was meant: others may be a part of it.
    return [max(said_rows, key=lambda row: len(row.reason))] if said_rows else rows[:1]


def _lives(old: Life, moment: Moment, events: list[tuple[str, str]]) -> set[str]:
    kills = [effect.reason for effect in moment.effects if isinstance(effect, KillWorker)]
    moves = [text for name, text in events if name == "JOB_STATE"]
    found: set[str] = set()
    # A frame may take several rows: a report, then time and permission.
    for move in moves:
        words = move.split(": ", 2)
        source, target = (Life[word] for word in words[1].split(" → "))
        found |= _named(source, target, words[2] if len(words) > 2 else "", bool(kills))
    if old is Life.STOPPING and kills and not moves:
        found |= _named(old, old, kills[0], True)
    return found


def _named(source: Life, target: Life, reason: str, killed: bool) -> set[str]:
    rows = [(key, row) for key, row in LIFECYCLE.items() if key[0] is source and row[0] is target]
    named = [trigger for part, trigger in _TRIGGER_SAID if part in reason]
    found: set[str] = set()
    for (life, trigger), (_, action) in rows:
        if action is Action.KILL and (not killed or trigger not in named):
            continue
        if action is not Action.KILL and target is Life.STOPPING and killed and named:
            continue
        found.add(_life_row(life, trigger))
    return found


def _mode_row(row: Transition) -> str:
    sources = "any" if row.sources == frozenset(Mode) else "/".join(m.name for m in Mode if m in row.sources)
    return f"mode: {sources} → {row.target.name}: {row.reason}"


def _life_row(life: Life, trigger: Trigger) -> str:
    return f"job: {life.name} {trigger.name}"


def _response_row(response: Response) -> str:
    return f"limit: {response}"
