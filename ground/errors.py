"""Exit codes and the one error of the ground programs.

Whatever an operator can cause or cure ends as a ``GroundError``: one line that says what, where and what to do,
with the exit code a script sees. The command line prints it; nothing else catches it.
"""

from enum import IntEnum, unique
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .protocol import CommandResult


@unique
class ExitCode(IntEnum):
    """What ``ground`` returns to the shell."""

    OK = 0
    ERROR = 1
    """Something on this machine: no station, no archive, no device."""
    USAGE = 2
    """The command line or an argument is wrong; nothing was sent."""
    REFUSED = 3
    """The spacecraft refused the telecommand."""
    FAILED = 4
    """The spacecraft accepted the telecommand, then failed to execute it."""
    NO_CONTACT = 5
    """No verification report in time."""
    INTERRUPTED = 130
    """Ctrl-C while waiting."""


class GroundError(Exception):
    """One line for the operator and the exit code that goes with it."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.ERROR) -> None:
        super().__init__(message)
        self.exit_code = exit_code


EXIT_OF_OUTCOME: Final = {
    "sent": ExitCode.OK,
    "accepted": ExitCode.OK,
    "completed": ExitCode.OK,
    "refused": ExitCode.REFUSED,
    "failed": ExitCode.FAILED,
    "timeout": ExitCode.NO_CONTACT,
}
"""Exit code for each outcome of a telecommand."""


def outcome_error(result: "CommandResult", what: str) -> GroundError:
    """The complaint about a telecommand for ``what`` that did not complete."""
    why = f"{result.code}: {result.text}" if result.code else "no report of the outcome in time"
    return GroundError(f"{what}: {result.name} {result.outcome}: {why}", EXIT_OF_OUTCOME[result.outcome])
