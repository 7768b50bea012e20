"""What can be asked for and sent: telecommands, parameters and kinds of records, explained from the dictionary."""

import difflib
from typing import Annotated, Final

import msgspec
import typer

from flightsw.link.dictionary import PARAMETER_BY_NAME, TELECOMMAND_BY_NAME, TELECOMMANDS
from flightsw.link.schema import Hazard

from . import sending
from .errors import ExitCode, GroundError
from .options import Json
from .screen import print_json, table

RECORDS: Final = ("packets", "events", "verifications", "replies", "commands")


def commands(as_json: Json = False) -> None:
    """List the telecommands of the dictionary."""
    if as_json:
        print_json(msgspec.to_builtins(TELECOMMANDS))
        return
    rows = [
        (c.name, "HAZARDOUS" if c.hazard is Hazard.HAZARDOUS else "", " ".join(a.name for a in c.arguments), c.text)
        for c in TELECOMMANDS
    ]
    print(table(("name", "hazard", "arguments", "what it does"), rows))


def _names(incomplete: str) -> list[tuple[str, str]]:
    return [(c.name, c.text) for c in TELECOMMANDS if c.name.startswith(incomplete)]


def help_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Telecommand or parameter.", autocompletion=_names)],
) -> None:
    """Explain a telecommand or a parameter."""
    if name in TELECOMMAND_BY_NAME:
        command = TELECOMMAND_BY_NAME[name]
        print(f"{command.name}: {sending.command_help(command)}")
        for argument in command.arguments:
            print(f"\n  {argument.name}\n    {sending.argument_help(argument)}")
    elif name in PARAMETER_BY_NAME:
        parameter = PARAMETER_BY_NAME[name]
        print(f"{name}: {parameter.text}" + (f" [{parameter.unit}]" if parameter.unit else ""))
        if parameter.states:
            print("  " + ", ".join(f"{code} {state}" for code, state in enumerate(parameter.states)))
        if limits := parameter.limits:
            shown = {field: getattr(limits, field) for field in limits.__struct_fields__}
            print(
                "  limits: " + ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in shown.items() if v is not None)
            )
    else:
        raise GroundError(f"no telecommand or parameter {name!r}{similar(name)}", ExitCode.USAGE)


def similar(name: str) -> str:
    """The end of a complaint: names that look like this one, if any do."""
    close = difflib.get_close_matches(name, [*PARAMETER_BY_NAME, *TELECOMMAND_BY_NAME, *RECORDS], n=3)
    return f"; did you mean {', '.join(close)}?" if close else ""
