"""One injection as a value: what is to be hit, how it was drawn, and what was seen when it was.

    survey of a subject ──► SubjectInfo ──draw(seed, index, …)──► Injection ──inject──► Fired

A *site* is something that can be hit: a tensor in memory, or the result of one operation of a pass. ``call`` counts
the operations of one name in a pass, from 0, as the program sees them: the checks that a protection adds are not
counted, so an injection means the same protected and unprotected. The place within the tensor is a fraction, so
that it stays meaningful for a cache that grows.

Within a target sites are drawn by their size in bytes: a particle does not know where one tensor ends. Targets are
drawn alike, because no published figure divides events between them; ``SubjectInfo.only`` narrows a draw to a part.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final, Literal, get_args

import msgspec

from .shapes import Pattern, Prior, ShapeName, draw_pattern, dtype_named, format_of
from .streams import Origin

TargetName = Literal[
    "weights",
    "optimiser",
    "gradients",
    "kv_cache",
    "random_state",
    "input_data",
    "activations",
    "arithmetic",
    "output_before_rounding",
    "output_after_rounding",
]
"""What can be hit; ``targets.TARGETS`` says how each is reached."""
TARGET_NAMES: Final[tuple[TargetName, ...]] = get_args(TargetName)


class NoSuchTarget(ValueError):
    """A target that the subject does not have; the text is one line that lists what there is."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """Something that can be hit. ``layer`` is a tensor's name, or the module that ran the operation."""

    target: TargetName
    layer: str
    dtype: str
    elements: int
    operation: str = ""
    """Operation whose result it is; empty for memory."""
    call: int = -1
    """Which of the operations of that name in a pass; −1 for memory, which is hit before any operation."""

    @property
    def size_bytes(self) -> int:
        """Its exposure."""
        return self.elements * format_of(dtype_named(self.dtype)).size_bytes


class SubjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What can be hit in a subject over so many passes."""

    name: str
    sites: tuple[Site, ...]
    passes: int = 1
    calls: int = 0
    """Operations of a pass; memory is hit before one of them. 0: at its beginning."""

    def at_the_beginning(self) -> "SubjectInfo":
        """This subject with memory hit between passes only."""
        return msgspec.structs.replace(self, name=f"{self.name}:between", calls=0)

    @property
    def targets(self) -> tuple[TargetName, ...]:
        """Targets that there are, in the order of the table."""
        found = {site.target for site in self.sites}
        return tuple(target for target in TARGET_NAMES if target in found)

    def only(self, *, target: str = "*", layer: str = "*", dtype: str = "*", operation: str = "*") -> "SubjectInfo":
        """This subject narrowed to sites that match shell patterns; the patterns become part of its name.

        Raises ``NoSuchTarget`` when nothing is left.
        """
        wanted = {"target": target, "layer": layer, "dtype": dtype, "operation": operation}
        sites = tuple(
            site
            for site in self.sites
            if all(fnmatchcase(getattr(site, key), pattern) for key, pattern in wanted.items())
        )
        said = ",".join(f"{key}={pattern}" for key, pattern in wanted.items() if pattern != "*")
        if not sites:
            raise NoSuchTarget(f"{said or 'a site'} does not exist in subject {self.name}; {self.what_there_is()}")
        return msgspec.structs.replace(self, name=f"{self.name}:{said}" if said else self.name, sites=sites)

    def what_there_is(self) -> str:
        """Targets and dtypes, for a complaint."""
        dtypes = sorted({site.dtype for site in self.sites})
        return f"it has {', '.join(self.targets) or 'nothing'} of {', '.join(dtypes) or 'no dtype'}"


class Injection(msgspec.Struct, frozen=True, kw_only=True):
    """One fault, completely: these values alone replay it."""

    id: str
    """``streams.origin_of`` takes it apart."""
    subject: str
    prior: str
    seed: int
    index: int
    target: TargetName
    layer: str
    operation: str
    call: int
    """Which of the operations of that name in the pass gives the result that is hit; of memory, which operation of
    all in the pass it is hit before."""
    occasion: int
    """Which pass of the run is hit, from 0."""
    dtype: str
    """Of the elements that are hit; before rounding that is the accumulator's."""
    shape: ShapeName
    bits: tuple[int, ...]
    stride: int
    words: int
    place: float
    """Where in the tensor, 0 to 1, 1 excluded."""

    @property
    def pattern(self) -> Pattern:
        """What happens to the bits."""
        return Pattern(shape=self.shape, bits=self.bits, stride=self.stride, words=self.words)


class Fired(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence that a fault happened: where, and the bits before and after, as unsigned integers."""

    injection: str
    where: str
    """Tensor, or operation and the module that it ran in."""
    dtype: str
    elements: tuple[int, ...]
    """Flat indices."""
    old: tuple[int, ...]
    new: tuple[int, ...]
    words32: int
    """Different 32-bit words of memory that hold damage; what a digest's guarantee counts."""

    @property
    def changed(self) -> bool:
        """Whether any bit is another; a zero that is nullified is hit, and stays what it was."""
        return self.old != self.new


def draw(seed: int, index: int, info: SubjectInfo, prior: Prior) -> Injection:
    """Injection number ``index`` of a seed: target, site, shape, place and occasion from its own stream.

    Raises ``NoShape`` when no shape of the prior exists for a site, ``NoSuchTarget`` when there is no site.
    """
    if not info.sites:
        raise NoSuchTarget(f"subject {info.name} has nothing that can be hit")
    origin = Origin(seed=seed, index=index, prior=prior.name, subject=info.name)
    site = _draw_site(origin, info.sites)
    pattern = draw_pattern(origin.stream("shape"), prior, dtype_named(site.dtype), site.elements)
    return Injection(
        id=origin.id,
        subject=info.name,
        prior=prior.name,
        seed=seed,
        index=index,
        target=site.target,
        layer=site.layer,
        operation=site.operation,
        call=site.call if site.call >= 0 else origin.stream("moment").randrange(max(1, info.calls)),
        occasion=origin.stream("occasion").randrange(info.passes),
        dtype=site.dtype,
        shape=pattern.shape,
        bits=pattern.bits,
        stride=pattern.stride,
        words=pattern.words,
        place=origin.stream("place").random(),
    )


def _draw_site(origin: Origin, sites: Sequence[Site]) -> Site:
    rng = origin.stream("site")
    targets = [target for target in TARGET_NAMES if any(site.target == target for site in sites)]
    target = rng.choice(targets)
    offered = [site for site in sites if site.target == target]
    (site,) = rng.choices(offered, [site.size_bytes for site in offered])
    return site
