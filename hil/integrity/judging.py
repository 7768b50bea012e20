"""What a fault did to a program, and what its protection made of it: two questions, each with one answer.

**Effect**, of the unprotected program against its undisturbed twin; the first that fits:

    hang        it did not come to an end within its time
    due         it came to no usable end: an exception, or a value that is not finite
    critical    its loss is at least 1 % worse
    sdc         a top-1 token is another one
    masked      none of these

Everything but *masked* is harmful. These are the definitions of the radiation reference, section 7.1, made to
exclude each other.

**Outcome**, of the same injection with protection on (``ledger_table`` has the words):

    corrected   noticed, and what was used in the end is the twin's, bit for bit
    detected    noticed, and nothing was used, or something that is not the twin's; then *released* is true
    masked      not noticed, and what was used is the twin's
    silent      not noticed, and what was used is not the twin's

*Caught* is a fault that was noticed and of which nothing was released. So a repair that puts back a wrong word is
no better than none, whatever was said about it. A silent fault without effect is one that changed bits but no
token.
"""

import math
from typing import Final, Literal

import msgspec
import torch
import xxhash
from torch import Tensor

from .ledger_table import Effect, Outcome

Ending = Literal["done", "error", "hang", "withheld"]

LOSS_WORSE: Final = 0.01
"""Share by which a loss has to be worse to be critical."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What a run gave: of all its passes together."""

    ending: Ending = "done"
    tokens: bytes = b""
    """Top-1 tokens, int64, in order."""
    loss: float = math.nan
    """Mean, nats per token."""
    finite: bool = True
    digest: str = ""
    """xxh3-128 of every bit of the result."""
    detail: str = ""
    """What an exception said."""


def observe(logits: Tensor, loss: float) -> Observation:
    """The observation of logits (…, vocabulary) of any float dtype, and the loss that goes with them."""
    held = logits.detach().cpu().contiguous()
    finite = bool(torch.isfinite(held).all()) and math.isfinite(loss)
    tokens = held.argmax(dim=-1).contiguous() if finite else torch.empty(0, dtype=torch.int64)
    return Observation(
        tokens=tokens.numpy().tobytes(),
        loss=loss,
        finite=finite,
        digest=xxhash.xxh3_128_hexdigest(held.view(torch.uint8).numpy().tobytes()),
    )


def effect(twin: Observation, seen: Observation) -> Effect:
    """What the fault did. ``twin`` is a run that ended well."""
    assert twin.ending == "done", "the twin is undisturbed"
    assert twin.finite, "the twin is undisturbed"
    if seen.ending == "hang":
        return "hang"
    if seen.ending == "error" or not seen.finite or not math.isfinite(seen.loss):
        return "due"
    # A loss may be 0 or below in a subject that is no language model: then any loss that is worse counts.
    if seen.loss - twin.loss >= LOSS_WORSE * abs(twin.loss) and seen.loss > twin.loss:
        return "critical"
    return "sdc" if seen.tokens != twin.tokens else "masked"


def harmful(what: Effect) -> bool:
    """Whether a fault with this effect has to be caught."""
    return what != "masked"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How a protected run ended; the ledger's words."""

    outcome: Outcome
    released: bool
    """Something was used that is not the twin's."""

    @property
    def caught(self) -> bool:
        """Noticed, and nothing wrong was used."""
        return caught(self.outcome, self.released)


def caught(outcome: str, released: bool) -> bool:
    """Whether a row of a ledger is a fault that was caught."""
    return outcome in ("corrected", "detected") and not released


def verdict(twin: Observation, used: Observation | None, *, noticed: bool) -> Verdict:
    """What the protection made of a fault. ``used`` is the result that was released, None when none was.

    A result that was withheld although nobody noticed anything cannot be: it is an error of the campaign.
    """
    if used is None:
        assert noticed, "nothing is withheld without a notice"
        return Verdict(outcome="detected", released=False)
    wrong = used.digest != twin.digest
    outcomes: dict[tuple[bool, bool], Outcome] = {
        (True, False): "corrected",
        (True, True): "detected",
        (False, False): "masked",
        (False, True): "silent",
    }
    return Verdict(outcome=outcomes[noticed, wrong], released=wrong)
