"""What the satellite tells of a parameter (``parameter.report``, ``parameter.stage``), read into its parts.

    eps.soc_safe = 0.7, file 0.65, staged 0.72; allowed is a number from 0.1 to 0.95

The line is made for an operator to read, so who reads it here falls back to the line itself.
"""

import re
from typing import Final

import msgspec

_TOLD: Final = re.compile(
    r"(?P<name>\S+) = (?P<value>[^\s,;]+)[^,;]*, file (?P<filed>[^\s,;]+)(?:, staged (?P<staged>[^\s,;]+))?.*;.*"
)


class ParameterReport(msgspec.Struct, frozen=True, kw_only=True):
    """Value in force, value of the configuration file, and the staged one, "" when nothing is staged; as text."""

    name: str
    value: str
    filed: str
    staged: str


def parameter_report(text: str) -> ParameterReport | None:
    """The parts of a report; None when it is written otherwise."""
    found = _TOLD.fullmatch(text)
    if found is None:
        return None
    return ParameterReport(
        name=found["name"], value=found["value"], filed=found["filed"], staged=found["staged"] or ""
    )
