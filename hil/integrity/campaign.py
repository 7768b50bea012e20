"""The campaign: draw, inject, judge, write down, until every group has its harmful faults.

Injections are numbered within their group and drawn by number, and each leaves its testee as it found it. So a
campaign that was interrupted goes on where it was: what the ledger has is not done again, and an injection that was
begun and not ended is tried again. ``only`` replays one of them from its id.

A fault that never fired makes the campaign invalid: a test that tested nothing must not pass.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import msgspec

from hil.yardstick.records import digest_of

from . import answers_part, compute_part, state_part, training_part
from .alone import Alone
from .injection import Fired, Injection, SubjectInfo, draw
from .judging import harmful
from .ledger import Ledger, read
from .ledger_table import End
from .plan import Group, Part, PlanError, groups, origin, prior_named
from .subjects import TRAINING_STEPS
from .testees import Roster

ABOUT: Final = "campaign.json"
SOURCES: Final = ("flightsw/gpu/integrity", "hil/integrity")
"""What a result depends on; a ledger of other sources is not gone on with."""
PARTS: Final[tuple[Part, ...]] = ("state", "compute", "training", "answers")


class Trial(Protocol):
    """One testee with what protects it."""

    info: SubjectInfo
    """What can be hit in it."""

    def one(self, injection: Injection) -> tuple[Fired, End]:
        """Inject, judge, leave everything as it was."""

    def alone(self, injection: Injection) -> tuple[str, ...] | None:
        """Which detectors notice the same fault when they are alone; None where they cannot be."""


TRIALS: Final[dict[Part, Callable[..., Trial]]] = {
    "state": state_part.Trial,
    "compute": compute_part.Trial,
    "training": training_part.Trial,
    "answers": answers_part.Trial,
}


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to do: parts, seed, quotas times ``scale``."""

    folder: Path
    seed: int = 1
    scale: float = 1.0
    parts: tuple[Part, ...] = PARTS
    steps: int = TRAINING_STEPS
    """Of training before a subject comes under fire."""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder holds: so that nothing of another campaign is counted in."""

    seed: int
    sources: str


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the campaign is: of the group at hand, and of all of it."""

    group: str
    injections: int
    harmful: int
    quota: int
    uncaught: int
    done: float
    """Share of all quotas, 0 to 1."""
    left_s: float | None
    """Time that is left at the rate so far; None while nothing can be said."""


Tell = Callable[[Progress], None]


class Campaign:
    """One order being carried out."""

    def __init__(self, order: Order, trials: dict[Part, Callable[..., Trial]] | None = None) -> None:
        self._order = order
        self._makers = trials or TRIALS
        self._testees: dict[Part, Roster] = {}
        self._trials: dict[tuple[Part, str], Trial] = {}
        self._plan = groups(order.parts, order.scale)
        self._wanted = sum(group.quota for group in self._plan)

    def carry_out(self, tell: Tell) -> None:
        """All groups. Raises ``NeverFired``, ``PlanError``; what was ended before is in the ledger."""
        folder = self._order.folder
        folder.mkdir(parents=True, exist_ok=True)
        self._claim(folder)
        with Ledger(folder) as ledger, Alone(folder) as alone:
            known = {str(row["id"]): (str(row["effect"]), bool(row["released"])) for row in read(folder)}
            began_s, before = time.monotonic(), 0.0
            for group in self._plan:
                for progress in self._group(group, ledger, alone, known):
                    share = (before + min(progress.harmful, group.quota)) / self._wanted
                    spent_s = time.monotonic() - began_s
                    left_s = spent_s * (1.0 - share) / share if share > 0.01 else None
                    tell(msgspec.structs.replace(progress, done=share, left_s=left_s))
                before += group.quota

    def replay(self, injection_id: str) -> tuple[Injection, Fired, End, tuple[str, ...]]:
        """One injection again, exactly. Raises ``ValueError`` for an id that is none, ``NoSuchTarget``."""
        drawn = origin(injection_id)
        trial = self._trial(drawn.part, drawn.subject)
        injection = draw(drawn.seed, drawn.index, drawn.narrowed(trial.info), drawn.prior)
        return injection, *trial.one(injection), trial.alone(injection) or ()

    def _group(
        self, group: Group, ledger: Ledger, alone: Alone, known: dict[str, tuple[str, bool]]
    ) -> Iterator[Progress]:
        trial = self._trial(group.part, group.subject)
        info, prior = group.narrowed(trial.info), prior_named(group.prior)
        count = uncaught = 0
        for index in range(group.tries_max):
            if count >= group.quota:
                return
            injection = draw(self._order.seed, index, info, prior)
            if injection.id in known:
                effect, released = known[injection.id]
            else:
                ledger.begin(injection)
                fired, end = trial.one(injection)
                if harmful(end.effect) and (noticed := trial.alone(injection)) is not None:
                    alone.add(injection.id, noticed)
                ledger.end(injection, fired, end)
                effect, released = end.effect, end.released
            count += effect != "masked"
            uncaught += effect != "masked" and released
            yield Progress(
                group=group.name, injections=index + 1, harmful=count, quota=group.quota, uncaught=uncaught,
                done=0.0, left_s=None,
            )  # fmt: skip

    def _of(self, part: Part) -> Roster:
        # Protection hooks into a module, so parts do not share testees.
        if part not in self._testees:
            self._testees[part] = Roster(self._order.seed, self._order.steps)
        return self._testees[part]

    def _trial(self, part: Part, subject: str) -> Trial:
        if (part, subject) not in self._trials:
            self._trials[part, subject] = self._makers[part](self._of(part), subject)
        return self._trials[part, subject]

    def _claim(self, folder: Path) -> None:
        about = About(seed=self._order.seed, sources=digest_of(*SOURCES))
        path = folder / ABOUT
        if path.exists():
            held = msgspec.json.decode(path.read_bytes(), type=About)
            if held != about:
                what = f"seed {held.seed}" if held.seed != about.seed else "another version of the sources"
                raise PlanError(f"{folder} holds a campaign of {what}; take another --out, or remove the folder")
        else:
            path.write_bytes(msgspec.json.encode(about) + b"\n")
