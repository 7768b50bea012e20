"""One calibration from the choice of the device to the files: plan, campaign, profile, pictures.

Files appear whole or not at all: everything is made in a folder beside the target and moved there at the end, the
profile last. An interrupted run leaves nothing behind.
"""

import datetime
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from flightsw.shell.card_profile import render

from .. import devices
from ..instruments.nvml_sim import NAME as SIMULATED_NAME
from . import plan as plans
from .campaign import Campaign, Measurements
from .cards import Card, RealCard, SimulatedCard
from .load import Load
from .outcome import Facts, Outcome, conclude
from .plan import Line, Plan

PROFILE_FILE: Final = "profile.toml"
SUMMARY_FILE: Final = "calibration.json"
HOW_CHARACTERS_MAX: Final = 800


class Session:
    """What the command line asked for, and how it is told what goes on."""

    def __init__(
        self,
        device: Literal["auto", "cpu", "cuda"],
        *,
        quick: bool,
        planned: Callable[[str, tuple[Line, ...]], None],
        tell: Callable[[str], None],
        command: tuple[str, ...] = (),
        preset: str = "",
        plan: Plan | None = None,
    ) -> None:
        """``planned`` gets the card's name and the phases once; ``plan`` replaces the one for the device."""
        self._wanted, self._quick = device, quick
        self._planned, self._tell = planned, tell
        self._command, self._preset, self._plan = command, preset, plan

    def run(self) -> tuple[Measurements, Outcome, dict[str, Any]]:
        """Measure and conclude. Raises ``DeviceError``, ``LoadError`` and ``FitError``, each of one line."""
        choice = devices.choose(self._wanted)
        with tempfile.TemporaryDirectory(prefix="gpusat-calibrate-") as name:
            folder = Path(name)
            with Load(folder, choice.device, self._command, self._preset) as load:
                greeting = load.greeting
                if greeting.device != choice.device:
                    raise devices.DeviceError(f"the load works on {greeting.device!r}, not on {choice.device!r}")
                card: Card = RealCard() if choice.device == "cuda" else SimulatedCard(folder, load.meter_path)
                try:
                    plan = self._plan or plans.make(choice.device, greeting.multiprocessors, quick=self._quick)
                    self._planned(card.meter.name, plans.lines(plan, choice.device))
                    found = Campaign(plan, load, card, self._tell).run()
                    about = card.meter.about()
                    name_of_card = SIMULATED_NAME if card.provenance == "simulated" else card.meter.name
                finally:
                    card.close()
        about = {"load": greeting.software, **about}
        facts = Facts(
            card=name_of_card,
            provenance=card.provenance,
            measured_on=datetime.datetime.now(datetime.UTC).date().isoformat(),
            how=_how(choice.device, self._quick, about),
        )
        outcome = conclude(found, facts)
        return found, outcome, summary(found, outcome, about)


def summary(found: Measurements, outcome: Outcome, about: dict[str, str]) -> dict[str, Any]:
    """The account for scripts: the profile, what was not found, and the raw figures behind it."""
    return {
        "profile": msgspec.to_builtins(outcome.profile),
        "gaps": list(outcome.gaps),
        "idle_w": found.idle._asdict(),
        "duty_linearity_w": outcome.linearity_w,
        "heat_residual_k": None if outcome.heat is None else outcome.heat.residual_k,
        "stops": [stop._asdict() for stop in found.stops],
        "aliases": [alias._asdict() for alias in found.aliases],
        "about": about,
    }


def write(folder: Path, found: Measurements, outcome: Outcome, account: dict[str, Any]) -> list[Path]:
    """Profile, account and pictures in ``folder``, the profile last; raises ``OSError``.

    Nothing there changes before all of them are written beside it.
    """
    from . import plots

    profile = outcome.profile
    remark = (
        f"{profile.card}, {profile.provenance} on {profile.measured_on} by `hil calibrate gpu`. Name this file in\n"
        "[card] profile. Watts, joules, kelvin, seconds; throughput relative to the best setting of the same work."
    )
    files = plots.draw(found, outcome)
    files[SUMMARY_FILE] = msgspec.json.format(msgspec.json.encode(account), indent=1) + b"\n"
    files[PROFILE_FILE] = render(profile, remark).encode()
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".calibration-", dir=folder))
    try:
        for name, content in files.items():
            (staging / name).write_bytes(content)
        for name in files:
            os.replace(staging / name, folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [folder / name for name in files]


def _how(device: str, quick: bool, about: dict[str, str]) -> str:
    facts = "; ".join(f"{what} {value}" for what, value in about.items())
    text = (
        f"hil calibrate gpu --device {device}{' --quick' if quick else ''}, settings of the card untouched; {facts}"
    )
    return text[:HOW_CHARACTERS_MAX]
