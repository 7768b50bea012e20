"""``ground``: the operator's command line.

    listen    run the station and watch      events    what happened            report    what an archive holds
    watch     watch a running station        query     parameters and records   commands  what can be sent
    status    the station at a glance        send      one telecommand          stop      end the station
    sequence  stored command sequences       table     limits and other tables          parameter change in flight
    resets    the last ones, and why         limits    what they say now                action    switch a response

Data go to standard output, complaints to standard error as one line; the exit code is one of ``errors.ExitCode``.
The commands themselves are in ``following``, ``lookup``, ``reference``, ``sending`` and ``cli_…``.
"""

import sys
from typing import Final

import typer

from . import cli_history, cli_limits, cli_parameter, cli_sequence, cli_table, following, lookup, reference, sending
from .errors import ExitCode, GroundError
from .screen import quiet_broken_pipe

app: Final = typer.Typer(
    name="ground",
    help="Ground station of gpusat: listen, command, look things up.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _name, _group in (
    ("send", sending.app),
    ("sequence", cli_sequence.app),
    ("table", cli_table.app),
    ("parameter", cli_parameter.app),
):
    app.add_typer(_group, name=_name)
for _name, _command in (
    ("listen", following.listen),
    ("watch", following.watch),
    ("status", following.status),
    ("stop", following.stop),
    ("events", lookup.events),
    ("query", lookup.query),
    ("report", lookup.report_command),
    ("resets", cli_history.resets),
    ("limits", cli_limits.limits),
    ("action", cli_limits.action),
    ("commands", reference.commands),
    ("help", reference.help_command),
):
    app.command(_name)(_command)


def main() -> None:
    """Entry point: every mistake becomes one line on standard error and an exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        outcome = app(arguments, prog_name="ground", standalone_mode=False)
        sys.stdout.flush()
        return int(outcome or 0)
    except GroundError as error:
        return _complain(str(error), error.exit_code)
    except BrokenPipeError:
        quiet_broken_pipe()
        return ExitCode.OK
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except Exception as error:
        # Typer's own complaints about a command line; their class is not public, their method is.
        if not hasattr(error, "format_message"):
            raise
        return _complain(error.format_message(), ExitCode.USAGE)


def _complain(message: str, code: ExitCode) -> int:
    print(f"ground: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
