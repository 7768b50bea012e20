"""The injector on running subjects: it fires once, where it was told, before or after rounding, or says that it
did not."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from flightsw.gpu.workloads.gpt import GPT, GPTConfig
from hil.integrity.injection import Injection, SubjectInfo, draw
from hil.integrity.injector import NeverFired, inject
from hil.integrity.shapes import EVEN, PUBLISHED
from hil.integrity.survey import survey
from hil.integrity.targets import Subject, torch_optimiser


class Twice(TorchDispatchMode):
    """A protection in small: every product in float32, checked by a repetition, then rounded; it counts alarms."""

    def __init__(self) -> None:
        super().__init__()
        self.alarms = 0
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        self.seen.append(name)
        if name in ("layer_norm", "scaled_dot_product_attention"):  # As inference mode shows them.
            return func.decompose(*args, **kwargs)
        rows = args[0].shape[:-1] if name == "linear" else None
        if name == "linear":
            args = (*args[2:], args[0].flatten(0, -2), args[1].t())
        elif name not in ("addmm", "mm"):
            return func(*args, **kwargs)
        bias, x, w = (None, *args) if len(args) == 2 else args
        torch.mv(x.float(), w.float().sum(dim=1))  # Like a checksum: a product that is not the program's.
        first, second = (torch.mm(x.float(), w.float()) for _ in range(2))
        if not torch.equal(first.view(torch.int32), second.view(torch.int32)):
            self.alarms += 1
            first = torch.mm(x.float(), w.float())
        rounded = (first if bias is None else first + bias.float()).to(w.dtype)
        return rounded if rows is None else rounded.unflatten(0, rows)


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


def plan(info: SubjectInfo, index: int = 0, **fields: object) -> Injection:
    """An injection drawn from a narrowed survey, with some fields as the test wants them."""
    drawn = draw(1, index, info, EVEN)
    values = {name: getattr(drawn, name) for name in drawn.__struct_fields__}
    return Injection(**{**values, **fields})


def linear(dtype: torch.dtype) -> tuple[Subject, Tensor, SubjectInfo]:
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 4)).to(dtype)
    x = torch.randn(6, 16).to(dtype)
    subject = Subject(name="pair", module=module)
    return subject, x, survey(subject, lambda: module(x), passes=1)


FLIP = {"shape": "single_bit", "stride": 0, "words": 1, "occasion": 0}


@pytest.mark.parametrize("target", ["output_before_rounding", "output_after_rounding", "activations", "arithmetic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_result_is_hit_once(target: str, dtype: torch.dtype) -> None:
    subject, x, info = linear(dtype)
    clean = subject.module(x)
    sites = info.only(target=target, layer="1" if target == "arithmetic" else "2")
    injection = plan(sites, **FLIP, bits=(dtype.itemsize * 8 - 2 if target != "output_before_rounding" else 30,))
    shot = inject(injection, subject)
    with shot:
        hit = subject.module(x)
        again = subject.module(x)
    fired = shot.evidence()
    differing = (bits(clean) != bits(hit)).nonzero()
    assert torch.equal(bits(again), bits(clean))
    assert fired.old[0] ^ fired.new[0] == 1 << injection.bits[0]
    if target != "arithmetic":
        assert len(differing) == 1
        row, column = differing[0].tolist()
        assert fired.elements == (row * 4 + column,)
    else:
        assert {row for row, _ in differing.tolist()} == {fired.elements[0] // 8}
    if target == "output_after_rounding":
        assert int(bits(hit)[row, column] ^ bits(clean)[row, column]) == 1 << injection.bits[0]


def test_a_small_flip_before_rounding_is_lost_in_rounding() -> None:
    """Bit 2 of the float32 sum is far below what bfloat16 holds: it fires, it changes the sum, not the result."""
    subject, x, info = linear(torch.bfloat16)
    clean = subject.module(x)
    shot = inject(plan(info.only(target="output_before_rounding", layer="0"), **FLIP, bits=(2,)), subject)
    with shot:
        hit = subject.module(x)
    assert shot.evidence().changed
    assert shot.evidence().dtype == "float32"
    assert torch.equal(bits(hit), bits(clean))


@pytest.mark.parametrize(
    ("target", "alarms"), [("output_before_rounding", 1), ("output_after_rounding", 0), ("activations", 0)]
)
def test_below_and_above_a_protection(target: str, alarms: int) -> None:
    """A raw result is damaged before the check, which repeats it; what is in transit is damaged behind it."""
    subject, x, info = linear(torch.bfloat16)
    with Twice():
        clean = subject.module(x)
    shot = inject(plan(info.only(target=target, layer="2"), **FLIP, bits=(14,)), subject)
    guard = Twice()
    with shot.below(), guard, shot.above():
        hit = subject.module(x)
    assert guard.alarms == alarms
    assert torch.equal(bits(hit), bits(clean)) is bool(alarms)
    assert shot.evidence().elements[0] < 24
    # Neither the flip itself nor the look-up of the tensor is an operation that a protection could see.
    quiet = Twice()
    with quiet:
        subject.module(x)
    assert guard.seen == quiet.seen


@pytest.mark.parametrize("target", ["weights", "random_state", "gradients"])
def test_a_hit_in_memory_is_no_operation_that_a_protection_could_see(target: str) -> None:
    subject, step, info = training()
    injection = plan(info.only(target=target), **FLIP, bits=(3,), call=1)
    shot, guard, quiet = inject(injection, subject), Twice(), Twice()
    with shot.below(), guard, shot.above():
        step()
    with quiet:
        step()
    assert shot.evidence().changed
    assert guard.seen == quiet.seen


def test_the_same_injection_hits_the_same_sum_protected_and_unprotected() -> None:
    subject, x, info = linear(torch.bfloat16)
    injection = plan(info.only(target="output_before_rounding", layer="0"), **FLIP, bits=(30,))
    bare, guarded = inject(injection, subject), inject(injection, subject)
    with bare:
        subject.module(x)
    with guarded.below(), Twice(), guarded.above():
        subject.module(x)
    assert bare.evidence() == guarded.evidence()


@pytest.mark.parametrize("operation", ["layer_norm", "linear", "scaled_dot_product_attention", "gelu"])
def test_operations_that_inference_mode_shows_whole_are_hit_in_their_parts(operation: str) -> None:
    torch.manual_seed(4)
    model = GPT(GPTConfig(layers=1, heads=2, width=16, context=16)).eval()
    tokens = torch.randint(256, (2, 8))
    subject = Subject(name="serving", module=model)
    with torch.inference_mode():
        info = survey(subject, lambda: model(tokens))
        clean = model(tokens)[0]
        target = "output_before_rounding" if operation == "linear" else "arithmetic"
        injection = plan(info.only(target=target, operation=operation), **FLIP, bits=(30,))
        bare, guarded = inject(injection, subject), inject(injection, subject)
        with bare:
            first = model(tokens)[0]
        with guarded.below(), Twice(), guarded.above():
            second = model(tokens)[0]
    assert bare.evidence().elements == guarded.evidence().elements
    assert not torch.equal(first, clean)
    assert operation == "linear" or not torch.equal(second, clean)


def training() -> tuple[Subject, Callable[[], None], SubjectInfo]:
    torch.manual_seed(4)
    model = GPT(GPTConfig(layers=1, heads=2, width=16, context=16))
    optimiser = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(256, (2, 8))
    subject = Subject(
        name="micro",
        module=model,
        optimiser=torch_optimiser(optimiser, model),
        inputs=lambda: [("tokens", tokens)],
        generators=lambda: {"host": torch.default_generator},
    )

    def step() -> None:
        optimiser.zero_grad()
        model(tokens, tokens)[1].backward()

    step()
    optimiser.step()
    return subject, step, survey(subject, step, passes=3)


def test_every_drawn_injection_fires_exactly_once() -> None:
    subject, step, info = training()
    # Tokens that name no row of the vocabulary end in torch's own error, or worse; that is for the campaign.
    sites = tuple(site for site in info.sites if site.dtype == "float32" or site.target == "random_state")
    info = SubjectInfo(name=info.name, sites=sites, passes=info.passes, calls=info.calls)
    state = {name: value.clone() for name, value in subject.module.state_dict().items()}
    random_state = torch.get_rng_state()
    fired: Counter[str] = Counter()
    for index in range(60):
        shot = inject(draw(1, index, info, PUBLISHED), subject)
        with shot.below():
            for number in range(3):
                with shot.above():
                    step()
                assert (shot.fired is not None) is (number >= shot.injection.occasion)
        assert shot.evidence().injection == shot.injection.id
        fired[shot.injection.target] += 1
        subject.module.load_state_dict(state)
        torch.set_rng_state(random_state)
    assert set(fired) == set(info.targets)


def test_a_gradient_is_hit_as_soon_as_it_is_there() -> None:
    subject, step, info = training()
    step()
    weight = subject.module.norm.weight
    clean = weight.grad.clone()
    shot = inject(plan(info.only(target="gradients", layer="norm.weight"), **FLIP, bits=(30,)), subject)
    with shot:
        step()
    assert int((bits(clean) != bits(weight.grad)).sum()) == 1
    step()
    assert torch.equal(bits(clean), bits(weight.grad))


def test_memory_is_hit_before_the_chosen_operation() -> None:
    """A weight that is hit after its layer has run changes nothing in a forward pass; before, it does."""
    subject, x, info = linear(torch.float32)
    clean = subject.module(x)
    state = {name: value.clone() for name, value in subject.module.state_dict().items()}
    for call, same in ((0, False), (2, True), (99, True)):
        injection = plan(
            info.only(target="weights", layer="0.weight"), **{**FLIP, "shape": "nan"}, call=call, bits=()
        )
        shot = inject(injection, subject)
        with shot:
            out = subject.module(x)
        assert torch.equal(out, clean) is same, call
        assert not torch.equal(subject.module(x), clean)
        assert shot.evidence().where == "weights 0.weight"
        subject.module.load_state_dict(state)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"call": 1}, "the pass ran gelu 1 times, number 1 is to be hit"),
        ({"operation": "relu"}, "the pass ran relu 0 times, number 0 is to be hit"),
        ({"occasion": 5}, "pass 5 of the run was never begun"),
        ({"operation": "gelu#1"}, "gave no new tensor number 1"),
    ],
)
def test_a_fault_that_never_fired_says_why(fields: dict[str, object], says: str) -> None:
    subject, x, info = linear(torch.float32)
    for target in ("arithmetic", "activations"):
        injection = plan(info.only(target=target, operation="gelu"), **{**FLIP, "bits": (30,), **fields})
        shot = inject(injection, subject)
        with shot:
            subject.module(x)
        with pytest.raises(NeverFired, match=says) as caught:
            shot.evidence()
        assert "the run is invalid" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_gradient_that_no_pass_leaves_never_fires() -> None:
    subject, x, info = linear(torch.float32)
    shot = inject(plan(info.only(target="gradients"), **FLIP, bits=(1,)), subject)
    with shot:
        subject.module(x)
    with pytest.raises(NeverFired, match="no backward pass left that gradient"):
        shot.evidence()
    with pytest.raises(NeverFired, match="has no gradient now"):
        inject(plan(info.only(target="gradients"), **FLIP, bits=(1,)), subject).strike()
    with pytest.raises(NeverFired, match="exists within a pass only"):
        inject(plan(info.only(target="activations"), **FLIP, bits=(1,)), subject).strike()
