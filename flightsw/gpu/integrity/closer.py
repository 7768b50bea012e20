"""A block that does not match its digest: what happened to it, and what becomes of it.

The order of the questions matters. First the digest's two copies (``sums``): a hit digest never touches memory.
Then the reading: memory is touched only when two readings in a row say the same, so that a hit of the check itself
repairs nothing. Then whether the program has written there. Only then is one damaged word put right, and it counts
as repaired when the block, read again, matches.
"""

from collections.abc import Callable
from typing import Final, Literal

import msgspec
import torch

from flightsw.gpu.integrity.damage import Damage, located
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.sums import Sums

READINGS_MAX: Final = 8
"""Readings of one damaged block in one look: memory that changes faster than it is read is not chased."""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What a closer look gave. ``hit`` says that the memory itself was found changed, repaired or not."""

    state: Literal["good", "changed", "open"]
    hit: bool
    mended: bool = False
    """One copy of the digest was hit, and is whole again."""
    detail: str = ""
    sums: tuple[int, ...] = ()
    """What was read last, when it is open."""

    def findings(self, where: str) -> list[Finding]:
        """What to report of memory that is ``where``; nothing of a change, which is no damage."""
        found = []
        if self.state == "open":
            found.append(Finding(detector="digest", outcome="open", where=where, detail=self.detail))
        elif self.state == "good" and self.hit:
            found.append(Finding(detector="digest", outcome="repaired", where=where, detail=self.detail))
        digest = f"digest of {where}"
        if self.mended:
            detail = "the digest itself was hit, memory was not"
            found.append(Finding(detector="digest", outcome="repaired", where=digest, detail=detail))
        elif self.state == "good" and not self.hit:
            detail = "one reading was wrong, the next was right"
            found.append(Finding(detector="digest", outcome="recomputed", where=digest, detail=detail))
        return found


def look_closer(
    sums: Sums,
    row: int,
    before: torch.Tensor,
    read: Callable[[], torch.Tensor],
    put_right: Callable[[Damage], bool],
    changed: Callable[[], bool] = lambda: False,
) -> Look:
    """Look at the block of ``row``, which gave ``before`` (3,) and should not have.

    ``read`` gives its sums (3,) as they are now. ``put_right`` takes the error off one word, counted within the
    block, and says whether that gave a possible word. ``changed`` says whether the program has written there.
    """
    last: torch.Tensor | None = before
    detail, repaired, seen = "no two readings of it agree", "", before
    for _ in range(READINGS_MAX):
        seen = read()
        verdict, difference = sums.judge(row, seen)
        if verdict in ("good", "mended"):
            return Look(state="good", hit=bool(repaired), mended=verdict == "mended", detail=repaired)
        if last is None or not torch.equal(seen, last):
            last = seen
            continue
        if changed():
            return Look(state="changed", hit=True)
        if verdict == "lost":
            detail = "memory and its digest were both hit"
            break
        damage = located(0, difference)
        if not damage.repairable or not put_right(damage):
            detail = "more than one word was hit"
            break
        repaired, last = f"word {damage.word} was off by {damage.error}", None
    return Look(state="open", hit=True, detail=detail, sums=tuple(seen.tolist()))
