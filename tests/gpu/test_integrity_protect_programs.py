"""Programs as users write them, under ``protect``: the bits of the unprotected twin, no alarm, every flip noticed.

Each row is a loop with a model, optimisers and passes (``played``). It is played bare and at the levels, with
the optimiser given to the guard and with the calls that its owner makes without; then with a flip below the guard.
"""

import contextlib
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import clip_grad_norm_, parametrizations
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from flightsw.link.integrity import Level
from tests.gpu.played import Hit, Player, Program, Step, alike, play

optim = torch.optim
F = nn.functional


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))


def rows() -> Tensor:
    return torch.randn(20, 8)


def tokens() -> Tensor:
    return torch.randint(50, (20, 6))


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8)


def sequences() -> Tensor:
    return torch.randn(3, 5, 8)


def squared(module: nn.Module, x: Tensor) -> Tensor:
    y = module(x)
    return (y[0] if isinstance(y, tuple) else y).square().mean()


def sgd(parameters: Any) -> optim.Optimizer:
    return optim.SGD(parameters, lr=0.1)


def trained(
    module: Callable[[], nn.Module],
    optimiser: Callable[[Any], optim.Optimizer] = optim.Adam,
    *,
    data: Callable[[], Tensor] = rows,
    loss: Callable[[Any, Tensor], Tensor] = squared,
    between: Callable[[nn.Module, int], Any] = lambda module, number: None,
    **options: Any,
) -> Program:
    """The usual loop; ``between`` comes before each step."""

    def program(player: Player) -> tuple[nn.Module, list[optim.Optimizer], Step]:
        model = module()
        its = optimiser(model.parameters())
        player.protect(model, its, **options)

        def step(number: int) -> Tensor:
            between(model, number)
            x = data()
            its.zero_grad()
            with player.running():
                found = loss(model, x)
                found.backward()
            player.update(its)
            return found

        return model, [its], step

    return program


def served(
    module: Callable[[], nn.Module],
    *,
    data: Callable[[], Tensor] = rows,
    context: Callable[[], Any] = torch.inference_mode,
    call: Callable[[Any, Tensor], Any] = lambda module, x: module(x),
) -> Program:
    """Passes of a model in evaluation."""

    def program(player: Player) -> tuple[nn.Module, list[optim.Optimizer], Step]:
        model = module().eval()
        player.protect(model)

        def step(number: int) -> Any:
            x = data()
            with context(), player.running():
                result = call(model, x)
            player.settle()
            return result

        return model, [], step

    return program


# Gradients.


class Function(torch.autograd.Function):
    """Writes in place, and says so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x.add_(1.0).mul_(1.5))
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        return gradients[0].clone().mul_(1.5)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.second = mlp(), nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.LayerNorm(8))
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.first, x.requires_grad_(), use_reentrant=self.reentrant)
        return checkpoint(self.second, x, use_reentrant=self.reentrant)


def penalised(module: nn.Module, x: Tensor) -> Tensor:
    y = module(x.requires_grad_())
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    return y.square().mean() + (gradient.norm(dim=1) - 1.0).square().mean()


def adapted(module: nn.Module, x: Tensor) -> Tensor:
    """A loss after a step of its own (MAML)."""
    own = dict(module.named_parameters())
    inner = torch.func.functional_call(module, own, (x,)).square().mean()
    gradients = torch.autograd.grad(inner, list(own.values()), create_graph=True)
    moved = {name: old - 0.1 * g for (name, old), g in zip(own.items(), gradients, strict=True)}
    return torch.func.functional_call(module, moved, (x,)).square().mean()


def transformed(module: nn.Module, x: Tensor) -> list[Any]:
    own = {name: one.detach() for name, one in module.named_parameters()}

    def loss(own: Any, x: Tensor) -> Tensor:
        return torch.func.functional_call(module, own, (x,)).square().mean()

    gradient = torch.func.grad(loss)
    return [
        gradient(own, x),
        torch.func.vmap(gradient, in_dims=(None, 0))(own, x[:, None]),
        list(torch.func.jvp(module, (x,), (torch.ones_like(x),))),
        torch.func.jacrev(module)(x[0]),
        torch.func.hessian(lambda x: module(x).sum())(x[0]),
    ]


def dual(module: nn.Module, x: Tensor) -> list[Tensor]:
    with forward_ad.dual_level():
        return [one.clone() for one in forward_ad.unpack_dual(module(forward_ad.make_dual(x, x.flip(0))))]


def _doubled(weight: Tensor) -> None:
    assert weight.grad is not None
    weight.grad.mul_(2.0)


def hooked() -> nn.Module:
    model = mlp()
    model[2].register_full_backward_hook(lambda module, given, gradients: (given[0] * 1.5,))
    model[1].register_full_backward_pre_hook(lambda module, gradients: (gradients[0] * 0.5,))
    model[2].weight.register_post_accumulate_grad_hook(_doubled)
    model[2].register_forward_hook(lambda module, args, y: y.register_hook(lambda gradient: gradient * 3.0) and y)
    return model


def accumulated(*, to_none: bool) -> Program:
    def program(player: Player) -> tuple[nn.Module, list[optim.Optimizer], Step]:
        model = mlp()
        its = optim.Adam(model.parameters())
        player.protect(model, its)

        def step(number: int) -> list[Tensor]:
            its.zero_grad(set_to_none=to_none)
            losses = []
            for _ in range(3):
                with player.running():
                    losses.append(squared(model, rows()))
                    losses[-1].backward()
            clip_grad_norm_(model.parameters(), 0.01)
            player.update(its)
            return losses

        return model, [its], step

    return program


def clipped_within(module: nn.Module, x: Tensor) -> Tensor:
    loss = squared(module, x)
    loss.backward(retain_graph=True)
    clip_grad_norm_(module.parameters(), 0.01)
    return loss


def unthreaded(module: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.set_multithreading_enabled(False):
        loss = squared(module, x)
        loss.backward(retain_graph=True)
    return loss


# Optimisers.


class Renewing(optim.Optimizer):
    """Written by hand: renews its state in each step, keeps some of it in a list, gives weights new memory."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state["moment"] = 0.9 * state.get("moment", torch.zeros_like(parameter)) + parameter.grad
            state["past"] = [*state.get("past", [])[-1:], parameter.grad.clone()]
            if parameter.dim() == 1:
                parameter.data = parameter.data - 0.1 * state["moment"]
            else:
                parameter.sub_(0.1 * state["moment"])


def with_closure(optimiser: Callable[[Any], optim.Optimizer]) -> Program:
    def program(player: Player) -> tuple[nn.Module, list[optim.Optimizer], Step]:
        model = mlp()
        its = optimiser(model.parameters())
        player.protect(model, its)

        def step(number: int) -> Any:
            x = rows()

            def closure() -> Tensor:
                its.zero_grad()
                with player.running():
                    loss = squared(model, x)
                    loss.backward()
                return loss

            return player.update(its, closure)

        return model, [its], step

    return program


def thaw(model: nn.Module, number: int) -> None:
    """The first layer is trained from the second step on, the last one up to it: state comes late, and stays."""
    model[0].requires_grad_(number > 0)  # type: ignore[index]
    model[2].requires_grad_(number < 2)  # type: ignore[index]


def two_models(player: Player) -> tuple[nn.Module, list[optim.Optimizer], Step]:
    """A generator and its critic, with a teacher that is not trained: three guards within one pass."""
    maker = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
    critic = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2, inplace=True), nn.Linear(16, 4))
    teacher = mlp().eval()
    of_maker, of_critic = optim.Adam(maker.parameters()), sgd(critic.parameters())
    player.protect(maker, of_maker)
    player.protect(critic, of_critic)
    player.protect(teacher)

    def step(number: int) -> list[Any]:
        with player.running():
            made = maker(torch.randn(20, 6))
            with torch.no_grad():
                wanted = teacher(made)
            of_critic.zero_grad()
            loss = F.mse_loss(critic(made.detach()), wanted)
            loss.backward()
        player.update(of_critic)
        with player.running():
            of_maker.zero_grad()
            other = -F.mse_loss(critic(made), wanted)
            other.backward()
        player.update(of_maker)
        return [loss, other, critic.state_dict()]

    return maker, [of_maker, of_critic], step


def averaged(player: Player) -> tuple[nn.Module, list[optim.Optimizer], Step]:
    """With an averaged model that is a copy of the protected one, and a schedule."""
    model = mlp()
    its = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = optim.lr_scheduler.CosineAnnealingLR(its, 5)
    player.protect(model, its)
    average = AveragedModel(model)

    def step(number: int) -> list[Any]:
        its.zero_grad()
        with player.running():
            loss = squared(model, rows())
            loss.backward()
        player.update(its)
        schedule.step()
        average.update_parameters(model)
        return [loss, average.state_dict(), average(rows())]

    return model, [its], step


# Layers.


class Statistics(nn.Module):
    """Buffers that the forward pass counts up, scales, assigns and registers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("last", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        if self.training:
            self.count += 1
            self.mean.mul_(0.9).add_(y.detach().mean(0), alpha=0.1)
            self.last = 0.5 * self.last + y.detach()[0]
        if "late" not in self._buffers:
            self.register_buffer("late", torch.ones(8))
        return (y - self.mean + self.last) * self.late


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 16)
        edges = torch.sparse_coo_tensor(torch.randint(0, 20, (2, 40)), torch.rand(40), (20, 20))
        self.register_buffer("edges", edges.coalesce())

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.edges, self.layer(x))


class Spectrum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.filter = nn.Linear(8, 8), nn.Parameter(torch.randn(5, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(self.layer(x)) * self.filter, n=8)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x))


class OfItsOwn(Tensor):
    """A type that changes nothing."""


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)


def quantised_later() -> nn.Module:
    from torch.ao import quantization

    model = nn.Sequential(quantization.QuantStub(), nn.Linear(8, 8), nn.ReLU()).train()
    model.qconfig = quantization.get_default_qat_qconfig("x86")  # type: ignore[assignment]
    return quantization.prepare_qat(model)


def normed(norm: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(norm(nn.Linear(8, 16)), nn.Tanh(), nn.Linear(16, 4))


def marked(module: nn.Module, x: Tensor) -> Tensor:
    with torch.profiler.record_function("a part"):
        return squared(module, x)


def without_memory(module: nn.Module, x: Tensor) -> Tensor:
    """Something that has no memory is asked for its shape on the way."""
    shape = nn.Linear(8, 4, device="meta")(torch.empty(20, 8, device="meta")).shape
    return squared(module, x) * shape[0]


def lowered(module: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return module(x).float().square().mean()


def jagged(module: nn.Module, x: Tensor) -> Tensor:
    parts = torch.nested.nested_tensor([x[:3], x[3:]], layout=torch.jagged)
    return module(parts).values()


def nested(module: nn.Module, x: Tensor) -> Tensor:
    return torch.nested.to_padded_tensor(module(torch.nested.nested_tensor([x[:3], x[3:]])), 0.0)


def into_a_part(weight: Tensor, x: Tensor) -> Tensor:
    """Kernels of products go over memory by its alignment, and round by the way they take."""
    memory = torch.randn(8, 64)
    for first, row in enumerate(memory):
        row[first : first + 35].view(5, 7).addmm_(x, weight)
    return memory


PROGRAMS: dict[str, Program] = {
    # Gradients.
    "sparse gradients, SparseAdam": trained(
        lambda: nn.Embedding(50, 16, sparse=True), lambda p: optim.SparseAdam(list(p)), data=tokens
    ),
    "sparse gradients, SGD with momentum": trained(
        lambda: nn.Embedding(50, 16, sparse=True), lambda p: optim.SGD(p, 0.1, momentum=0.9), data=tokens
    ),
    "a bag of sparse rows": trained(lambda: nn.EmbeddingBag(50, 16, sparse=True), sgd, data=tokens),
    "the largest of a bag": trained(lambda: nn.EmbeddingBag(50, 16, mode="max"), data=tokens),
    "a function that writes in place": trained(
        mlp, loss=lambda module, x: module[2](Function.apply(module[0](x))).square().mean()
    ),
    "checkpoints, reentrant": trained(lambda: Checkpointed(True)),
    "checkpoints, not reentrant": trained(lambda: Checkpointed(False)),
    "gradients of gradients": trained(mlp, loss=penalised),
    "a step within the loss": trained(mlp, loss=adapted),
    "transforms of functions": served(mlp, context=contextlib.nullcontext, call=transformed),
    "forward-mode differentiation": served(mlp, context=contextlib.nullcontext, call=dual),
    "hooks of gradients": trained(hooked),
    "gradients set to none": accumulated(to_none=True),
    "gradients set to zero": accumulated(to_none=False),
    "clipped within the pass": trained(mlp, loss=clipped_within),
    "backward on the calling thread": trained(mlp, loss=unthreaded),
    # Optimisers.
    "Adam, a list of tensors at once": trained(mlp, lambda p: optim.Adam(p, amsgrad=True, foreach=True)),
    "Adam, one tensor after the other": trained(mlp, lambda p: optim.Adam(p, amsgrad=True, foreach=False)),
    "Adam, fused": trained(mlp, lambda p: optim.Adam(p, fused=True)),
    "RMSprop": trained(mlp, lambda p: optim.RMSprop(p, centered=True, momentum=0.5)),
    "Adagrad": trained(mlp, optim.Adagrad),
    "Muon": trained(lambda: nn.Sequential(nn.Linear(8, 16, bias=False), nn.Tanh()), optim.Muon),
    "LBFGS": with_closure(lambda p: optim.LBFGS(p, max_iter=3, line_search_fn="strong_wolfe")),
    "a closure": with_closure(optim.AdamW),
    "layers that are frozen and thawed": trained(mlp, optim.Adam, between=thaw),
    "models that teach and contradict each other": two_models,
    "an average of weights": averaged,
    # Layers.
    "a largest norm of rows": trained(lambda: nn.Embedding(50, 16, max_norm=1.0), sgd, data=tokens),
    "a largest norm of rows, served": served(lambda: nn.Embedding(50, 16, max_norm=1.0), data=tokens),
    "statistics of its own": trained(Statistics),
    "statistics, memory only": trained(lambda: nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)), compute=False),
    "quantisation to come": trained(quantised_later, sgd),
    "weight norm": trained(normed(parametrizations.weight_norm)),
    "spectral norm": trained(normed(parametrizations.spectral_norm)),
    "spectral norm, old": trained(normed(nn.utils.spectral_norm)),
    "orthogonal": trained(normed(lambda part: parametrizations.orthogonal(part, orthogonal_map="cayley"))),
    "tied": trained(Tied, data=tokens),
    "batch norm in channels last": trained(
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(True)).to(
            memory_format=torch.channels_last
        ),
        data=lambda: images().to(memory_format=torch.channels_last),
    ),
    "instance norm": trained(
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, track_running_stats=True)), data=images
    ),
    "dropout of channels and in place": trained(
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Dropout2d(0.3), nn.Dropout(0.3, inplace=True), nn.RReLU()),
        data=images,
    ),
    "transposed convolutions": trained(
        lambda: nn.Sequential(nn.Conv1d(3, 6, 3, padding_mode="circular", padding=1), nn.ConvTranspose1d(6, 3, 2)),
        data=lambda: torch.randn(4, 3, 16),
    ),
    "GRU": trained(lambda: nn.GRU(8, 12, 2, dropout=0.2, bidirectional=True), data=sequences),
    "LSTM": trained(lambda: nn.LSTM(8, 12, batch_first=True), data=sequences),
    "an encoder": trained(encoder, data=sequences),
    "an encoder's fast path, lengths nested": served(
        encoder,
        data=sequences,
        call=lambda module, x: module(x, src_key_padding_mask=torch.arange(5) >= torch.tensor([[5], [3], [2]])),
    ),
    "nested": served(mlp, call=nested),
    "jagged": served(mlp, context=contextlib.nullcontext, call=jagged),
    "quantised": served(lambda: torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear}, torch.qint8)),
    "a product into a part of memory": served(
        lambda: nn.Linear(7, 9),
        data=lambda: torch.randn(5, 9),
        call=lambda module, x: into_a_part(module.weight, x),
    ),
    "sparse": trained(Graph),
    "complex": trained(Spectrum),
    "float64": trained(lambda: nn.Sequential(mlp(), nn.LayerNorm(4)).double(), data=lambda: rows().double()),
    "autocast": trained(mlp, loss=lowered),
    "a type of its own": trained(mlp, loss=lambda module, x: squared(module, x.as_subclass(OfItsOwn))),
    "a mark of a profile": trained(mlp, loss=marked),
    "something without memory": trained(mlp, loss=without_memory),
}
HIDDEN = frozenset({"jagged"})
"""Their types hide the arithmetic, and ``coverage`` says so."""
QUIET = pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested tensors",
    "ignore:Sparse invariant checks are implicitly disabled",
    "ignore:torch.quantize_per_tensor, torch.quantize_per_channel",
    "ignore:`torch.jit.script",
    "ignore:torch.ao.quantization is deprecated",
    "ignore:`torch.nn.utils.",
    "ignore:.*torch.ao.quantization",
    "ignore:Please use quant_min",
    "ignore:.*reduce_range will be deprecated",
)
"""What torch says of programs of the table, guarded or not."""


@QUIET
@pytest.mark.parametrize("name", PROGRAMS)
def test_undisturbed_programs_keep_every_bit_and_raise_nothing(name: str) -> None:
    program = PROGRAMS[name]
    bare, _ = play(program, None)
    other = (Level.OFF, Level.WATCH, Level.STANDARD)[list(PROGRAMS).index(name) % 3]
    for level, given in ((Level.STORM, True), (other, False)):
        kept, player = play(program, level, given=given)
        assert (player.refused, player.findings) == ([], []), (level, given)
        assert alike(kept, bare), (level, given)
        assert all(guard.looked for guard in player.guards if guard.compute) or level is Level.OFF


@QUIET
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in HIDDEN and "memory only" not in name])
def test_a_flip_is_noticed_or_changes_nothing(name: str) -> None:
    program = PROGRAMS[name]
    bare, _ = play(program, None)
    counted = Hit(-1)
    play(program, Level.STORM, hit=counted)
    random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    hit = Hit(int(torch.randint(counted.seen, (1,), generator=random)))
    kept, player = play(program, Level.STORM, hit=hit)
    assert hit.where, "a fault that never fired proves nothing"
    assert player.refused or alike(kept, bare), f"{hit.where}: {player.findings}"
    assert player.findings or not player.refused
