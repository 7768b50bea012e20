"""``ground send``: one subcommand per telecommand, made from the dictionary.

Names, help, completion lists and checks all come from ``flightsw.link.dictionary``, so a telecommand that is
added there can be sent, and asked about, without a line here. An argument is written ``name=value`` or ``--name
value``.
"""

import inspect
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from flightsw.link.arguments import describe, parse_argument_text
from flightsw.link.dictionary import TELECOMMAND_BY_NAME, TELECOMMANDS
from flightsw.link.errors import LinkError
from flightsw.link.schema import Argument, ArgumentType, Hazard, Telecommand

from .client import ArchiveReader, CommandResult, ReplyRow, StageLine, StationClient
from .commanding import check_timeout, meant, shown_arguments, validate
from .errors import EXIT_OF_OUTCOME, ExitCode, GroundError
from .locations import socket_path
from .protocol import Wait
from .screen import arguments_text, block, clip

REPLY_S: Final = 2.0
"""How long to look for the reply packet of a completed inference request."""
REPLY_POLL_S: Final = 0.05
"""Time between two looks."""

_WAITS: Final[dict[str, Wait]] = {"completion": "completion", "acceptance": "acceptance", "none": None}
_PANEL: Final = "Telecommand arguments"

app: Final = typer.Typer(
    no_args_is_help=True,
    help="Send one telecommand and wait for its verification reports.\n\n"
    "Exit code: 0 completed, 2 wrong arguments (nothing was sent), 3 refused, 4 failed, 5 no report in time.",
)


def argument_help(argument: Argument) -> str:
    """One line: what it is, what is allowed, its default."""
    default = "" if argument.default is None else f" Default {argument.default}."
    return f"{argument.text}: {describe(argument)}.{default}"


def choices(argument: Argument) -> tuple[str, ...]:
    """What completion offers for a value; empty when any text or number goes."""
    if argument.type is ArgumentType.BOOL:
        return ("true", "false")
    return argument.choices


def read_arguments(telecommand: Telecommand, pairs: list[str], options: dict[str, str | None]) -> dict[str, Any]:
    """Checked values from ``name=value`` pairs and options; raises ``GroundError`` (usage)."""
    by_name = {argument.name: argument for argument in telecommand.arguments}
    texts: dict[str, str] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign:
            allowed = " ".join(f"{name}=…" for name in by_name) or "it has no arguments"
            raise GroundError(f"{telecommand.name}: {pair!r} is not name=value: {allowed}", ExitCode.USAGE)
        if name in texts:
            raise GroundError(f"{telecommand.name}: argument {name} is given twice", ExitCode.USAGE)
        texts[name] = text
    for name, given in options.items():
        if given is not None:
            if name in texts:
                raise GroundError(f"{telecommand.name}: argument {name} is given twice", ExitCode.USAGE)
            texts[name] = given
    try:
        # An unknown name passes as text; the dictionary's own check refuses it in its own words.
        values = {
            name: parse_argument_text(by_name[name], text) if name in by_name else text
            for name, text in texts.items()
        }
    except LinkError as error:
        raise GroundError(f"{telecommand.name}: {error}{meant(telecommand, texts)}", ExitCode.USAGE) from None
    return validate(telecommand.name, values)[1]


def complete_pair(telecommand: Telecommand, pairs: list[str], incomplete: str) -> list[tuple[str, str]]:
    """Completions of the word being typed, with help: ``name=`` first, then its values.

    Bash cuts a word at "=", so the name may stand in the words before it.
    """
    by_name = {argument.name: argument for argument in telecommand.arguments}
    name, sign, begun = incomplete.partition("=")
    if not name and sign:
        name, prefix = (pairs[-1] if pairs else ""), ""
    elif not sign and pairs and pairs[-1] == "=":
        name, sign, begun, prefix = (pairs[-2] if len(pairs) > 1 else ""), "=", incomplete, ""
    else:
        prefix = f"{name}="
    if sign:
        values = choices(by_name[name]) if name in by_name else ()
        return [(prefix + value, "") for value in values if value.casefold().startswith(begun.casefold())]
    given = {pair.partition("=")[0] for pair in pairs}
    return [
        (f"{argument.name}=", argument_help(argument))
        for argument in telecommand.arguments
        if argument.name.startswith(incomplete) and argument.name not in given
    ]


def send(
    telecommand: Telecommand,
    arguments: dict[str, Any],
    *,
    socket: Path | None,
    wait: str,
    timeout_s: float | None,
    yes: bool,
    as_json: bool,
) -> ExitCode:
    """Send, show each stage, return the exit code of the outcome."""
    if wait not in _WAITS:
        raise GroundError(f"--wait {wait}: allowed are {', '.join(_WAITS)}", ExitCode.USAGE)
    check_timeout(timeout_s)
    hazardous = telecommand.hazard is Hazard.HAZARDOUS
    if hazardous and not yes:
        _confirm(telecommand, as_json)

    def show(line: StageLine) -> None:
        if not as_json:
            print(stage_text(line), flush=True)

    with StationClient(socket_path(socket)) as client:
        status = client.status()
        if not as_json and not status.contact:
            heard = "nothing heard yet" if status.silence_s is None else f"silent for {status.silence_s:.0f} s"
            print(f"no contact ({heard}): sent once now, and again when contact is back", flush=True)
        steps: list[tuple[Telecommand, dict[str, Any], Wait]] = [(telecommand, arguments, _WAITS[wait])]
        if hazardous:
            steps.insert(0, (TELECOMMAND_BY_NAME["arm"], {"opcode": telecommand.opcode}, "completion"))
        for step, values, report in steps:
            if not as_json:
                print(f"{step.name} {arguments_text(shown_arguments(step, values))}".rstrip(), flush=True)
            result = client.send(step.name, values, report, timeout_s, on_stage=show)
            if not result.ok:
                break
        reply = _reply(Path(status.archive), result) if report == "completion" else None
    if as_json:
        shown_result = msgspec.to_builtins(result) | ({"reply": msgspec.to_builtins(reply)} if reply else {})
        print(msgspec.json.encode(shown_result).decode(), flush=True)
    else:
        print(result_text(result), flush=True)
        if reply is not None:
            print(f"reply: {reply.tokens} tokens, generation {reply.generation}, {reply.duration_s:.2f} s on board")
            print(block(reply.text, "  │ "))
    return EXIT_OF_OUTCOME[result.outcome]


def stage_text(line: StageLine) -> str:
    """One verification report as a line."""
    said = clip(line.text, 200)
    mark = f"{line.code}: {said}" if not line.success else f"ok: {said}" if said else "ok"
    return f"  {line.after_s:8.3f} s  {line.stage:<10} {mark}"


def result_text(result: CommandResult) -> str:
    """The outcome as a line."""
    repeats = f", sent {result.transmissions} times" if result.transmissions > 1 else ""
    match result.outcome:
        case "timeout":
            return (
                f"timeout: no report of the outcome in time (id {result.id}{repeats});"
                " it may still be executed: see ground query commands"
            )
        case "refused" | "failed":
            return f"{result.outcome}: {result.code}: {clip(result.text, 200)} (id {result.id}{repeats})"
        case outcome:
            return f"{outcome} (id {result.id}{repeats})"


def _confirm(telecommand: Telecommand, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise GroundError(f"{telecommand.name} is hazardous: say --yes to arm and send it", ExitCode.USAGE)
    print(f"{telecommand.name} is hazardous: {telecommand.text}")
    if input("Arm and send it? [y/N] ").strip().casefold() not in ("y", "yes"):
        raise GroundError("not sent", ExitCode.USAGE)


def _reply(archive: Path, result: CommandResult) -> ReplyRow | None:
    """The reply packet that belongs to a completed inference request, once the archive has all of it."""
    if result.name != "job.infer" or result.outcome != "completed":
        return None
    deadline_s = time.monotonic() + REPLY_S
    with ArchiveReader(archive) as reader:
        while True:
            reply = next((row for row in reversed(reader.replies()) if row.command == result.id), None)
            if (reply is not None and reply.complete) or time.monotonic() > deadline_s:
                return reply
            time.sleep(REPLY_POLL_S)


def _subcommand(telecommand: Telecommand) -> Callable[..., None]:
    """A function whose signature typer turns into options, help and completion."""
    fields = {re.sub(r"\W", "_", f"arg_{argument.name}"): argument for argument in telecommand.arguments}

    def run(**given: Any) -> None:
        options = {argument.name: given[field] for field, argument in fields.items()}
        arguments = read_arguments(telecommand, given["pairs"] or [], options)
        code = send(
            telecommand,
            arguments,
            socket=given["socket"],
            wait=given["wait"],
            timeout_s=given["timeout"],
            yes=given["yes"],
            as_json=given["as_json"],
        )
        raise typer.Exit(code)

    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        return complete_pair(telecommand, list(ctx.params.get("pairs") or ()), incomplete)

    def values(argument: Argument) -> Callable[[str], list[str]]:
        return lambda incomplete: [c for c in choices(argument) if c.casefold().startswith(incomplete.casefold())]

    annotations: dict[str, tuple[Any, Any]] = {
        "pairs": (
            Annotated[
                list[str] | None,
                typer.Argument(metavar="NAME=VALUE", help="Arguments of the telecommand", autocompletion=complete),
            ],
            None,
        )
    }
    for field, argument in fields.items():
        flags = dict.fromkeys((f"--{argument.name}", f"--{argument.name.replace('_', '-')}"))
        option = typer.Option(
            *flags,
            metavar=argument.type.value.upper(),
            help=argument_help(argument),
            rich_help_panel=_PANEL,
            autocompletion=values(argument),
        )
        annotations[field] = (Annotated[str | None, option], None)
    annotations |= {
        "wait": (
            Annotated[
                str,
                typer.Option(
                    "--wait", metavar="|".join(_WAITS), help="Report to wait for", autocompletion=_wait_values
                ),
            ],
            "completion",
        ),
        "timeout": (
            Annotated[
                float | None,
                typer.Option("--timeout", metavar="S", help="Seconds to the outcome; else the dictionary's bound"),
            ],
            None,
        ),
        "yes": (
            Annotated[bool, typer.Option("--yes", "-y", help="Arm and send a hazardous command unasked")],
            False,
        ),
        "as_json": (Annotated[bool, typer.Option("--json", help="One JSON object")], False),
        "socket": (Annotated[Path | None, typer.Option("--socket", help="Control socket of the station")], None),
    }
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # What typer reads.
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in annotations.items()
        ]
    )
    run.__annotations__ = {name: annotation for name, (annotation, _) in annotations.items()}
    run.__doc__ = command_help(telecommand)
    return run


def command_help(telecommand: Telecommand) -> str:
    """Help of one telecommand: text, hazard, modes, time."""
    modes = "any mode" if len(telecommand.modes) == 5 else ", ".join(mode.name for mode in telecommand.modes)
    hazard = (
        "\n\nHAZARDOUS: it is armed first, after you confirm." if telecommand.hazard is Hazard.HAZARDOUS else ""
    )
    return (
        f"{telecommand.text}{hazard}\n\nOpcode 0x{telecommand.opcode:02X}, allowed in {modes};"
        f" done within {telecommand.timeout_s:g} s of acceptance."
    )


def _wait_values(incomplete: str) -> list[str]:
    return [wait for wait in _WAITS if wait.startswith(incomplete)]


for _telecommand in TELECOMMANDS:
    app.command(_telecommand.name, short_help=_telecommand.text)(_subcommand(_telecommand))
assert TELECOMMAND_BY_NAME
