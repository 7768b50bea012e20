"""Exit codes and the one error of the ground programs.

Whatever an operator can cause or cure ends as a ``GroundError``: one line that says what, where and what to do,
with the exit code a script sees. The command line prints it; nothing else catches it.
"""

from enum import IntEnum, unique


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
