"""Steps of a torch optimiser under a guard: what is refused before one, and what is taken anew after it.

Every update is verified before it is made, whatever the level: its digests are new ones, and of unverified state
they would seal damage in. A step within a pass is refused at every level, so that a program does not run at one and
fail at another: the pass is not settled before it has ended.

*Closures* (LBFGS, or any optimiser that is given one) compute within the step. What such a pass has computed is
settled before the optimiser makes use of it. Between the first change of the weights and the end of the step nobody
verifies them: damage of that time is sealed in.

*State that comes late.* Optimisers make their state in the first step that has a gradient for it, and some make it
anew in each. All of it was verified, or did not exist, before; so all there is after the step is guarded from then
on.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch

from flightsw.gpu.integrity.pass_looks import PassLooks
from flightsw.gpu.integrity.protected_state import ProtectedState
from flightsw.link.integrity import Level


class NotUsable(RuntimeError):
    """Resident state is damaged, or a pass is tainted: the update was not made."""


class Owner(Protocol):
    """The guard whose steps these are."""

    @property
    def level(self) -> Level: ...
    def settle(self) -> bool: ...
    def before_update(self) -> bool: ...
    def after_update(self) -> None: ...
    def adopt(self) -> None: ...


def guarded_steps(
    optimiser: torch.optim.Optimizer, owner: Owner, state: ProtectedState, looks: PassLooks
) -> tuple[Any, ...]:
    """Guard the steps of an optimiser until the handles that are returned are removed."""

    def before(optimiser: Any, args: Any, kwargs: Any) -> Any:
        refused = _refusal(owner, state, looks)
        if refused:
            raise NotUsable(f"optimiser step refused: {refused}")
        return _with_settled_closure(owner, args, kwargs)

    def after(optimiser: Any, args: Any, kwargs: Any) -> None:
        if owner.level is Level.OFF:
            state.unwatched = True
        elif state.rearranged():
            owner.adopt()
        else:
            owner.after_update()

    return optimiser.register_step_pre_hook(before), optimiser.register_step_post_hook(after)


def _refusal(owner: Owner, state: ProtectedState, looks: PassLooks) -> str:
    """Why a step may not be made; empty when it may."""
    if looks.inside:
        return "it is made within a pass, which is not settled before it has ended; leave running() first"
    settled = owner.settle()
    verified = owner.level is Level.OFF or owner.before_update()
    if damaged := state.resident.damaged:
        changed = state.changed_unannounced()
        if hit := damaged - changed:
            return f"damaged and not repairable: {', '.join(sorted(hit))}; restore the state and call adopt()"
        return f"the program has changed {', '.join(sorted(changed))}, unannounced; adopt() says that it is good"
    if not settled:
        return "a pass since the last one is tainted or unfinished; run the step again"
    if verified:
        return ""
    if strangers := state.strangers():
        return f"nobody said that these are good, adopt() says it: {', '.join(strangers)}"
    return (
        "state was hit and is put right, but the gradients may have been made with the wrong value; zero them and "
        "run the step again"
    )


def _with_settled_closure(owner: Owner, args: Any, kwargs: Any) -> Any:
    """Arguments of a step whose closure settles what it has computed; None to leave them as they are."""
    closure: Callable[[], Any] | None = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        return None

    def settled() -> Any:
        loss = closure()
        if not owner.settle():
            raise NotUsable(
                "optimiser step broken off: a pass of its closure is tainted or unfinished; run the step again, "
                "or, if it has changed weights already, restore the state and call adopt()"
            )
        return loss

    return ((args[0], settled, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": settled})
