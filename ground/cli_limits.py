"""``ground limits`` and ``ground action``: what the limits on board say now, and the switches of their responses.

The status alone has results and counts; what the limits are, and what is done about them, is in the two tables. All
three are dumped, and joined by id.
"""

import math
from typing import Annotated, Any, Final

import typer

from flightsw.link import limit_tables
from flightsw.link.dictionary import PARAMETER_BY_NAME
from flightsw.link.errors import TableError
from flightsw.link.limit_status import ActionStatus, LimitStatus, WatchStatus, decode_status
from flightsw.link.limit_tables import ARGUMENT_SPAN, Actionpoint, ActionTable, Watchpoint, WatchTable

from .cli_onboard import fetch, fetch_watchpoints, order, unreadable
from .client import StationClient
from .condition import condition_text
from .errors import ExitCode, GroundError
from .locations import socket_path
from .monitor import value_text
from .names import likely
from .options import Json, Socket
from .screen import clip, print_json, table

STATES: Final = ("active", "passive", "disabled")


def limits(
    tripped: Annotated[
        bool,
        typer.Option("--tripped", help="Only limits that are not clear, and responses that are due or have acted."),
    ] = False,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Show every limit on board with its value and result, and every response with its state and count."""
    with StationClient(socket_path(socket)) as client:
        watchpoints = fetch_watchpoints(client)
        actionpoints = fetch_actionpoints(client, watchpoints)
        image = fetch(client, "fdir_status")
    try:
        status = decode_status(image)
    except TableError as error:
        raise unreadable("fdir_status", error) from None
    watch = [w for w in status.watch if not tripped or w.result != "CLEAR"]
    action = [a for a in status.action if not tripped or a.condition == "TRUE" or a.acting or a.count]
    if as_json:
        print_json(_as_json(watch, action, actionpoints))
        return
    limit_of = {point.id: point for point in watchpoints.watchpoints}
    response_of = {point.id: point for point in actionpoints.actionpoints}
    names = {point.id: point.name for point in watchpoints.watchpoints}
    rows = [_watch_row(w, limit_of.get(w.id)) for w in watch]
    print(table(("id", "watchpoint", "result", "value", "limit", "age s", "parameter"), rows, frozenset((0, 3, 5))))
    rows = [_action_row(a, response_of.get(a.id), names) for a in action]
    header = ("id", "actionpoint", "state", "level", "response", "count", "now", "when")
    if rows:
        print(f"\n{table(header, rows, frozenset((0, 3, 5)))}")
    print(f"\n{_summary(status)}")


def action(
    which: Annotated[str, typer.Argument(metavar="ID", help="Actionpoint: id or name.", show_default=False)],
    state: Annotated[
        str,
        typer.Argument(
            metavar="|".join(STATES),
            help="Act, only report, or not be looked at.",
            autocompletion=lambda incomplete: [s for s in STATES if s.startswith(incomplete)],
            show_default=False,
        ),
    ],
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Switch one actionpoint."""
    if state.casefold() not in STATES:
        raise GroundError(f"{state!r} is no state of an actionpoint: {', '.join(STATES)}", ExitCode.USAGE)
    if which.isdigit():
        id = int(which)
    else:
        with StationClient(socket_path(socket)) as client:
            points = fetch_actionpoints(client, fetch_watchpoints(client)).actionpoints
        ids = {point.name: point.id for point in points}
        if which not in ids:
            raise GroundError(
                f"no actionpoint {which!r} on board{likely(which, ids)}: see ground limits", ExitCode.USAGE
            )
        id = ids[which]
    order("action.state", {"action": id, "state": state.upper()}, socket, as_json)


def fetch_actionpoints(client: StationClient, watchpoints: WatchTable) -> ActionTable:
    """The actionpoints on board; raises ``GroundError`` when this dictionary cannot read them."""
    try:
        return limit_tables.decode_actionpoints(fetch(client, "actionpoints"), watchpoints)
    except TableError as error:
        raise unreadable("actionpoints", error) from None


def _watch_row(status: WatchStatus, point: Watchpoint | None) -> tuple[str, ...]:
    if point is None:  # The table was exchanged between two dumps.
        return (
            str(status.id),
            clip(status.name, 40),
            status.result,
            _number(status.value),
            "",
            _age(status.age_s),
            "",
        )
    parameter = PARAMETER_BY_NAME[point.parameter]
    rate = point.quantity == "rate"
    value = _number(status.value) if rate else value_text(parameter, status.value)
    # The name of a state says something only where that very state is meant.
    named = not rate and point.operator in ("==", "!=")
    trip = value_text(parameter, point.trip) if named else _number(point.trip)
    unit = f" {parameter.unit}" if parameter.unit else ""
    per = "/s" if rate else ""
    return (
        str(status.id),
        clip(status.name, 40),
        status.result,
        f"{value}{unit if value != '–' else ''}{per if value != '–' else ''}",
        f"{point.operator} {trip}{unit}{per}",
        _age(status.age_s),
        point.parameter,
    )


def _action_row(status: ActionStatus, point: Actionpoint | None, names: dict[int, str]) -> tuple[str, ...]:
    now = "acting" if status.acting else "tripped" if status.tripped else status.condition.lower()
    state = f"{status.switch} (spent)" if status.spent else status.switch
    if point is None:
        return str(status.id), clip(status.name, 40), state, "", "", str(status.count), now, ""
    argument = f" {point.argument:g}" if point.response in ARGUMENT_SPAN else ""
    when = condition_text(point.condition, names)
    return (
        str(status.id),
        clip(status.name, 40),
        state,
        str(point.level),
        f"{point.response}{argument}",
        str(status.count),
        now,
        f"{when} for {point.persistence_s:g} s" if point.persistence_s else when,
    )


def _summary(status: LimitStatus) -> str:
    results = [w.result for w in status.watch]
    counts = ", ".join(f"{results.count(r)} {r.lower()}" for r in ("CLEAR", "TRIPPED", "STALE"))
    acting = sum(a.acting for a in status.action)
    return f"{len(results)} watchpoints: {counts}; {len(status.action)} actionpoints: {acting} acting"


def _as_json(
    watch: list[WatchStatus], action: list[ActionStatus], actionpoints: ActionTable
) -> dict[str, list[dict[str, Any]]]:
    point_of = {point.id: point for point in actionpoints.actionpoints}
    return {
        "watchpoints": [
            {"id": w.id, "name": w.name, "result": w.result, "value": _finite(w.value), "age_s": _finite(w.age_s)}
            for w in watch
        ],
        "actionpoints": [
            {
                "id": a.id,
                "name": a.name,
                "state": a.switch,
                "spent": a.spent,
                "condition": a.condition,
                "tripped": a.tripped,
                "acting": a.acting,
                "count": a.count,
            }
            | ({"level": point.level, "response": str(point.response)} if (point := point_of.get(a.id)) else {})
            for a in action
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _age(age_s: float) -> str:
    return f"{age_s:.1f}" if math.isfinite(age_s) else "never"
