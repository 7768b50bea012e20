"""``ground parameter``: parameters of the satellite's configuration that can be changed in flight.

Several values set in one command change together in one frame, or not at all: each is staged, the whole set is
validated, then activated by a single telecommand. When anything is refused the staged set is discarded.
"""

import contextlib
from collections.abc import Iterable
from typing import Annotated, Any, Final

import typer

from flightsw.link import settings
from flightsw.link.errors import TableError
from flightsw.link.settings import SETTING_BY_NAME, SETTINGS, Number, ParameterSet, Setting

from .cli_onboard import fetch, unreadable
from .client import CommandResult, StationClient
from .errors import ExitCode, GroundError, outcome_error
from .locations import socket_path
from .names import likely
from .options import Json, Socket
from .parameter_report import parameter_report
from .parameter_source import check_value
from .screen import clip, print_json, table

app: Final = typer.Typer(no_args_is_help=True, help="Parameters of the satellite that can be changed in flight.")


UNKNOWN: Final = "·"


def _names(incomplete: str) -> list[tuple[str, str]]:
    return [(s.name, s.text) for s in SETTINGS if s.name.startswith(incomplete)]


def _pairs(incomplete: str) -> list[tuple[str, str]]:
    return [(f"{s.name}=", f"{s.text}: {settings.describe(s)}") for s in SETTINGS if s.name.startswith(incomplete)]


@app.command("list")
def list_command(
    changed: Annotated[bool, typer.Option("--changed", help="Only those that differ from the file.")] = False,
    ask: Annotated[bool, typer.Option("--ask", help="Ask for each value, with one telecommand each.")] = False,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """List the parameters, and the values of those that were changed in flight."""
    with StationClient(socket_path(socket)) as client:
        active = _active(client)
        chosen = [s for s in SETTINGS if not changed or s.name in active.values]
        told = {s.name: parameter_report(_told(client, s.name)) for s in chosen} if ask else {}
    values = {name: _shown(value) for name, value in active.values.items()}
    values |= {name: report.value for name, report in told.items() if report}
    filed = {name: report.filed for name, report in told.items() if report}
    if as_json:
        rows = [
            {
                "name": s.name,
                "value": values.get(s.name),
                "file": filed.get(s.name),
                "unit": s.unit,
                "allowed": settings.describe(s),
                "text": s.text,
            }
            for s in chosen
        ]
        print_json({"set": active.name, "changed": list(active.values), "parameters": rows})
        return
    columns = {
        "name": [s.name for s in chosen],
        "value": [values.get(s.name, UNKNOWN) for s in chosen],
        "file": [filed.get(s.name, UNKNOWN) for s in chosen],
        "unit": [s.unit for s in chosen],
        "allowed": [_range(s) for s in chosen],
        "what it is": [s.text for s in chosen],
    }
    if not ask:
        del columns["file"]
    print(table(tuple(columns), zip(*columns.values(), strict=True), frozenset(range(1, len(columns) - 3))))
    rest = "" if ask else f"; {UNKNOWN} is the value of the satellite's configuration file (--ask tells it)"
    print(f"\nset {clip(active.name, 40)!r}: {len(active.values)} of {len(SETTINGS)} set in flight{rest}")


@app.command()
def get(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Parameter.", autocompletion=_names, show_default=False)
    ],
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Ask for one parameter: its value, the file's, the staged one, what is allowed."""
    setting = _setting(name)
    with StationClient(socket_path(socket)) as client:
        text = _told(client, setting.name)
    if not as_json:
        print(f"{clip(text, 200)}\n{setting.text}")
        return
    report = parameter_report(text)
    parts = {"value": report.value, "file": report.filed, "staged": report.staged or None} if report else {}
    print_json({"name": name, **parts, "unit": setting.unit, "told": text})


@app.command("set")
def set_command(
    pairs: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=VALUE...", help="Values that change together.", autocompletion=_pairs, show_default=False
        ),
    ],
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Change parameters in flight, all at once or none; they hold over restarts."""
    values = read_pairs(pairs)
    with StationClient(socket_path(socket)) as client:
        # What somebody staged and left would go into force with ours.
        report = parameter_report(_told(client, next(iter(values))))
        if report is None or report.staged:
            client.send("table.discard", {"table": "parameters"})
        try:
            changes = [_staged(client, name, value) for name, value in values.items()]
            _completed(client.send("table.validate", {"table": "parameters"}), "parameters")
            done = _completed(client.send("table.activate", {"table": "parameters"}), "parameters")
        except BaseException:
            with contextlib.suppress(GroundError):
                client.send("table.discard", {"table": "parameters"}, wait=None)
            raise
    if as_json:
        print_json({"changed": changes, "told": done})
        return
    print(table(("name", "old", "", "new", "unit"), _changes(changes), frozenset((1,))))
    print(clip(done, 200))


def read_pairs(pairs: Iterable[str]) -> dict[str, Number]:
    """Checked values from ``name=value``; raises ``GroundError`` (usage) for the first that is wrong."""
    values: dict[str, Number] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign:
            raise GroundError(f"{pair!r} is not NAME=VALUE", ExitCode.USAGE)
        if name in values:
            raise GroundError(f"{name} is given twice", ExitCode.USAGE)
        setting = _setting(name)
        try:
            values[name] = check_value(name, _read(setting, text))
        except TableError as error:
            raise GroundError(str(error), ExitCode.USAGE) from None
    return values


def _read(setting: Setting, text: str) -> Any:
    """A value as typed; what cannot be read stays text and is refused as what it is not."""
    if setting.type == "bool":
        words = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False}
        return words.get(text.casefold(), False if text == "0" else text)
    try:
        return int(text) if setting.type == "int" else float(text)
    except ValueError:
        return text


def _staged(client: StationClient, name: str, value: Number) -> dict[str, str]:
    text = _completed(client.send("parameter.stage", {"parameter": name, "value": float(value)}), name)
    report = parameter_report(text)
    old = report.value if report else "?"
    return {"name": name, "old": old, "new": _shown(value), "unit": SETTING_BY_NAME[name].unit}


def _changes(changes: list[dict[str, str]]) -> list[tuple[str, ...]]:
    return [(c["name"], c["old"], "→", c["new"], c["unit"]) for c in changes]


def _told(client: StationClient, name: str) -> str:
    return _completed(client.send("parameter.report", {"parameter": name}), name)


def _completed(result: CommandResult, what: str) -> str:
    """The satellite's words at the end of a telecommand; raises ``GroundError`` for one that did not complete."""
    if result.outcome != "completed":
        raise outcome_error(result, what)
    return result.stages[-1].text if result.stages else ""


def _active(client: StationClient) -> ParameterSet:
    try:
        return settings.decode(fetch(client, "parameters"))
    except TableError as error:
        raise unreadable("parameters", error) from None


def _setting(name: str) -> Setting:
    if name not in SETTING_BY_NAME:
        raise GroundError(
            f"no parameter {name!r} that can be changed in flight{likely(name, SETTING_BY_NAME)}", ExitCode.USAGE
        )
    return SETTING_BY_NAME[name]


def _range(setting: Setting) -> str:
    return "true, false" if setting.type == "bool" else f"{setting.minimum:.12g} to {setting.maximum:.12g}"


def _shown(value: Number) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.12g}"
