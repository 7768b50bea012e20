"""Execution rows: the shape of what a telecommand does, and how it is known that it is done.

A row has *begin*, which changes the vehicle and returns effects, or refuses; and *ended*, which says in each later
frame whether the command is complete or has failed. A row without *ended* is complete at once. The rows stand in
``execution`` and, by subject, in the modules it collects them from.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from flightsw.link.schema import FailureCode

from .commanding import Command
from .effects import Effect
from .events import Event
from .inputs import Report
from .vehicle import Config, Vehicle


class Pong(Struct, frozen=True):
    """An are-you-alive report is to be sent."""


class Failure(Struct, frozen=True):
    """Why a command cannot begin, or ended badly."""

    code: FailureCode
    text: str


DONE: Final = Failure(FailureCode.NONE, "")
Outcome = Effect | Event | Pong
Reports = tuple[Report, ...]
Begun = tuple[Vehicle, tuple[Outcome, ...]] | Failure
Begin = Callable[[Vehicle, Config, Command, float], Begun]
Ended = Callable[[Vehicle, Config, Command, Reports], Failure | None]
"""DONE is completion, None is "not yet"."""


class Execution(Struct, frozen=True):
    """One row: how a command begins, and when it has ended; None ends at once."""

    begin: Begin
    ended: Ended | None = None
