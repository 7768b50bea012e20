"""What a campaign injects: groups of faults, each with a quota of harmful ones.

A group is one part of one subject, under one prior. It runs until it has its quota of *harmful* faults, because a
fault that changes nothing says nothing about a detector; a bound on all injections ends a group in which harm is
rare. Injections of a group are numbered from 0 and drawn by number, so an interrupted group goes on where it was
and one injection is replayed from its id alone.

``state`` faults hit memory between two passes, in 1 to 2 words, and are the digest's business. ``compute`` faults
hit the results of operations within a pass, and are that of the checks around operations; those of cached passes
are handed over instead of seen (subjects ``…-told``), and counted by themselves. ``answers`` are faults of
both kinds while the flight's own server answers requests, ``training`` are faults of gradients in its own trainer.

Quotas: 3,838 harmful faults without a miss show 99.9 %, 381 show 99 % (``intervals``). A quick plan has a tenth.
"""

import math
from collections.abc import Mapping
from typing import Final, Literal, cast

import msgspec

from .injection import SubjectInfo
from .intervals import trials_for
from .shapes import EVEN, PRIORS, PUBLISHED, UNIFORM_BIT, Prior, ShapeName
from .streams import origin_of

Part = Literal["state", "compute", "training", "answers"]
WORDS_MAX: Final = 2
"""Words of a state fault: what the digest guarantees."""
STATE_HARMFUL: Final = trials_for(0.999)
COMPUTE_HARMFUL: Final = trials_for(0.99)
TRIES_PER_HARMFUL: Final = 60
"""A group ends after so many injections for each harmful one that it wants."""
BETWEEN: Final = "between"
PREFIXES: Final[Mapping[str, Part]] = {"serve-": "answers", "trainer-": "training"}
"""Subjects that have a part of their own."""


class PlanError(ValueError):
    """A plan that cannot be carried out; the text is one line."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """One row: which part of which subject, under which prior, how many harmful faults."""

    part: Part
    subject: str
    prior: str
    quota: int
    target: str = "*"
    operation: str = "*"

    @property
    def name(self) -> str:
        """For people, and for the progress line."""
        what = self.target if self.operation == "*" else f"{self.target} {self.operation}"
        return f"{self.part} {self.subject} {what}, {self.prior}"

    @property
    def tries_max(self) -> int:
        """Bound on the injections of this group."""
        return self.quota * TRIES_PER_HARMFUL

    def narrowed(self, info: SubjectInfo) -> SubjectInfo:
        """The subject's sites that this group hits."""
        part = info.only(target=self.target, operation=self.operation)
        return part.at_the_beginning() if self.part == "state" else part


_STATE_EVEN: Final = EVEN.only(strided_words_max=WORDS_MAX).name
_STATE_PUBLISHED: Final = PUBLISHED.only(strided_words_max=WORDS_MAX).name

GROUPS: Final[tuple[Group, ...]] = (
    # Resident state. Published shares for the figures, even ones for the table by shape, uniform bits beside.
    Group(part="state", subject="gpt-float32", target="weights", prior=_STATE_PUBLISHED, quota=400),
    Group(part="state", subject="gpt-bfloat16", target="weights", prior=_STATE_PUBLISHED, quota=500),
    Group(part="state", subject="stack-bfloat16", target="weights", prior=_STATE_PUBLISHED, quota=200),
    Group(part="state", subject="decode-float32", target="kv_cache", prior=_STATE_PUBLISHED, quota=150),
    Group(part="state", subject="decode-bfloat16", target="kv_cache", prior=_STATE_PUBLISHED, quota=150),
    Group(part="state", subject="train-float32", target="weights", prior=_STATE_PUBLISHED, quota=100),
    Group(part="state", subject="train-float32", target="optimiser", prior=_STATE_PUBLISHED, quota=100),
    Group(part="state", subject="gpt-float32", target="weights", prior=_STATE_EVEN, quota=500),
    Group(part="state", subject="gpt-bfloat16", target="weights", prior=_STATE_EVEN, quota=500),
    Group(part="state", subject="stack-float32", target="weights", prior=_STATE_EVEN, quota=200),
    Group(part="state", subject="decode-float32", target="kv_cache", prior=_STATE_EVEN, quota=200),
    Group(part="state", subject="decode-bfloat16", target="kv_cache", prior=_STATE_EVEN, quota=200),
    Group(part="state", subject="train-float32", target="weights", prior=_STATE_EVEN, quota=100),
    Group(part="state", subject="train-float32", target="optimiser", prior=_STATE_EVEN, quota=150),
    Group(part="state", subject="stack-bfloat16", target="weights", prior=_STATE_EVEN, quota=200),
    Group(part="state", subject="gpt-float32", target="input_data", prior=_STATE_EVEN, quota=100),
    Group(part="state", subject="gpt-float32", target="weights", prior=UNIFORM_BIT.name, quota=80),
    Group(part="state", subject="gpt-bfloat16", target="weights", prior=UNIFORM_BIT.name, quota=160),
    # Arithmetic and transit, in bfloat16; float32 for comparison.
    Group(part="compute", subject="gpt-bfloat16", target="output_before_rounding", prior=EVEN.name, quota=90),
    Group(part="compute", subject="gpt-bfloat16", target="output_after_rounding", prior=EVEN.name, quota=90),
    Group(part="compute", subject="gpt-bfloat16", target="activations", prior=EVEN.name, quota=60),
    Group(part="compute", subject="gpt-bfloat16", target="arithmetic", prior=EVEN.name, quota=60),
    Group(
        part="compute", subject="gpt-bfloat16", target="arithmetic", operation="*attention*", prior=EVEN.name,
        quota=40,
    ),
    Group(part="compute", subject="gpt-bfloat16", target="*output*", prior=PUBLISHED.name, quota=40),
    Group(part="compute", subject="gpt-bfloat16", target="*output*", prior=UNIFORM_BIT.name, quota=40),
    Group(part="compute", subject="decode-bfloat16", target="*output*", prior=EVEN.name, quota=30),
    Group(part="compute", subject="train-mixed", target="*output*", prior=EVEN.name, quota=40),
    Group(part="compute", subject="train-mixed", target="activations", prior=EVEN.name, quota=20),
    # On a processor with kernels passes of float32 without gradients are looked at late, in a way of their own.
    Group(part="compute", subject="gpt-float32", target="*output*", prior=EVEN.name, quota=60),
    Group(part="compute", subject="gpt-float32", target="activations", prior=EVEN.name, quota=40),
    Group(part="compute", subject="gpt-float32", target="arithmetic", prior=EVEN.name, quota=40),
    Group(
        part="compute", subject="gpt-float32", target="arithmetic", operation="*attention*", prior=EVEN.name,
        quota=20,
    ),
    Group(part="compute", subject="decode-float32", target="*output*", prior=EVEN.name, quota=20),
    Group(part="compute", subject="decode-float32", target="activations", prior=EVEN.name, quota=20),
    # What a cached pass hands over is looked at in the same way, and gets there in another.
    *(
        Group(part="compute", subject=subject, target=target, operation=operation, prior=EVEN.name, quota=quota)
        for subject in ("steps-told", "chunks-told")
        for target, operation, quota in (
            ("*output*", "*", 72), ("activations", "*", 60),
            ("arithmetic", "*", 40), ("arithmetic", "*attention*", 20),
        )
    ),
    # Gradients of the real, guarded trainer.
    Group(part="training", subject="trainer-float32", target="gradients", prior=EVEN.name, quota=12),
    # Answers of the real server.
    Group(part="answers", subject="serve-float32", target="weights", prior=EVEN.name, quota=15),
    Group(part="answers", subject="serve-float32", target="kv_cache", prior=EVEN.name, quota=10),
    # Operations that no check has of its own: below the guard, others could not be told from those of the checks.
    *(
        Group(part="answers", subject="serve-float32", target=target, operation=operation, prior=EVEN.name, quota=6)
        for target, operation in (
            ("arithmetic", "gelu"), ("arithmetic", "*attention*"), ("output_before_rounding", "linear"),
        )
    ),
    *(
        Group(part="answers", subject="serve-told", target=target, prior=EVEN.name, quota=4)
        for target in ("*output*", "activations", "arithmetic")
    ),
)  # fmt: skip
QUICK_SHARE: Final = 0.1
HARMFUL_WANTED: Final[Mapping[Part, int]] = {"state": STATE_HARMFUL, "compute": COMPUTE_HARMFUL}
"""Harmful faults that the goals ask for. Quotas of ``GROUPS`` add up to somewhat more: rare harm may fall short."""


def groups(parts: tuple[Part, ...], scale: float) -> list[Group]:
    """Groups of these parts with quotas times ``scale``, at least one each."""
    return [
        msgspec.structs.replace(group, quota=max(1, math.ceil(group.quota * scale)))
        for group in GROUPS
        if group.part in parts
    ]


def scale_for(n: int) -> float:
    """Scale at which the state part wants ``n`` harmful faults in all. Raises ``PlanError``."""
    if n < 1:
        raise PlanError(f"--n {n}: 1 and more harmful faults can be asked for")
    return n / sum(group.quota for group in GROUPS if group.part == "state")


def prior_named(name: str) -> Prior:
    """A prior by its name, narrowed ones too, as ``Prior.only`` names them. Raises ``PlanError``, ``NoShape``."""
    base, *narrowed = name.split(":")
    if base not in PRIORS:
        raise PlanError(f'prior "{base}" is unknown; there are {", ".join(PRIORS)}')
    words = int(narrowed.pop()) if narrowed and narrowed[-1].isdigit() else 0
    shapes = cast("list[ShapeName]", narrowed[0].split("+") if narrowed else [])  # ``only`` refuses what is none.
    return PRIORS[base].only(*shapes, strided_words_max=words)


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What an injection's id says: enough to draw it again."""

    part: Part
    subject: str
    seed: int
    index: int
    prior: Prior
    filters: Mapping[str, str]

    def narrowed(self, info: SubjectInfo) -> SubjectInfo:
        """The subject's sites from which it was drawn."""
        part = info.only(**self.filters)
        return part.at_the_beginning() if self.part == "state" else part


def place_of(injection_id: str) -> tuple[Part, str]:
    """Part and subject of an id, whoever drew it. Raises ``ValueError`` for a text that is none."""
    subject, *rest = origin_of(injection_id).subject.split(":")
    for prefix, part in PREFIXES.items():
        if subject.startswith(prefix):
            return part, subject
    return ("state" if rest and rest[-1] == BETWEEN else "compute"), subject


def origin(injection_id: str) -> Origin:
    """Take the id of one of our own draws apart. Raises ``ValueError`` for a text that is none."""
    drawn = origin_of(injection_id)
    part, subject = place_of(injection_id)
    rest = drawn.subject.split(":")[1:]
    filters = dict(part.split("=", 1) for text in rest for part in text.split(",") if "=" in part)
    return Origin(
        part=part,
        subject=subject,
        seed=drawn.seed,
        index=drawn.index,
        prior=prior_named(drawn.prior),
        filters=filters,
    )
