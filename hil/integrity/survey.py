"""What can be hit in a subject: one clean pass, watched operation by operation.

Memory is listed as it is after that pass, so that caches and optimiser state exist. Of every operation each result
with memory of its own is a site, under the module that ran it; in a backward pass, under the module whose weight it
works on, else under the one that made an operand. Before rounding, a bfloat16 product is a site of its float32 sum.
Where operations are handed over these are met (``telling``), and what is seen beside them counts as ever.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from torch import Tensor, nn

from .injection import Site, SubjectInfo, TargetName
from .operations import BACKWARD, ROUNDED, TOLD, Watch, is_product, name_of, new_results, tensors_in, with_output
from .shapes import FORMATS
from .targets import TARGETS, Subject, random_words
from .telling import Handed

ROOT: Final = "root"
"""Layer of an operation that no named module ran."""


def survey(subject: Subject, run_pass: Callable[[], object], passes: int = 1) -> SubjectInfo:
    """Sites of a subject. ``run_pass`` runs one clean pass; ``passes`` are how many a run under fire will have.

    Raises ``ValueError`` when the pass computed nothing.
    """
    watcher = _Watcher(subject)
    told = watcher.told if subject.told else None
    with _layers(subject.module, watcher.running), Watch(watcher.seen, told):
        run_pass()
    if not watcher.sites:
        raise ValueError(f"subject {subject.name}: its pass ran no operation that torch shows (a compiled graph?)")
    sites = [*_memory_sites(subject), *watcher.sites]
    return SubjectInfo(name=subject.name, sites=tuple(sites), passes=passes, calls=watcher.ran.total())


def _memory_sites(subject: Subject) -> Iterator[Site]:
    for target in subject.targets():
        reach = TARGETS[target].reach
        found: dict[str, Tensor] = {}
        if reach == "memory":
            found = subject.memory(target)
        elif reach == "gradient":
            found = dict(subject.parameters())
        elif reach == "generator":
            found = {name: random_words(generator)[1] for name, generator in subject.generators().items()}
        for name, tensor in found.items():
            if tensor.dtype in FORMATS and tensor.is_cpu | tensor.is_cuda:
                yield _site(target, name, tensor)


def _site(target: TargetName, layer: str, tensor: Tensor, operation: str = "", call: int = -1) -> Site:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Site(target=target, layer=layer, dtype=dtype, elements=tensor.numel(), operation=operation, call=call)


class _Watcher:
    """Notes every result of a pass; ``running`` are the modules that are at work, outermost first."""

    def __init__(self, subject: Subject) -> None:
        self.running: list[str] = []
        self.sites: list[Site] = []
        self.ran: Counter[str] = Counter()
        """Operations so far, by name."""
        self._weights: dict[int, str] = {}
        """Module by the storage of a weight."""
        self._made: dict[int, str] = {}
        """Module by the storage of a result, the latest that had it."""
        self._names: dict[nn.Module | None, str] = {}
        if subject.module is not None:
            self._names = {part: name or ROOT for name, part in subject.module.named_modules()}
            for name, parameter in subject.module.named_parameters():
                self._weights[_storage(parameter)] = name.rpartition(".")[0] or ROOT

    def seen(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One operation of the pass, as a mode sees it."""
        name = name_of(func)
        number = self.ran[name]
        self.ran[name] += 1
        out = func(*args, **kwargs)
        results = new_results(func, args, kwargs, out)
        if not results:
            return out
        layer = self._running_now
        if name.startswith(BACKWARD):
            given = [_storage(tensor) for tensor in tensors_in((args, kwargs)) if tensor.numel()]
            owners = [known[key] for known in (self._weights, self._made) for key in given if key in known]
            layer = owners[0] if owners else ROOT
        self._note(name, number, layer, results, _targets_of(name))
        return out

    def told(self, handed: Handed) -> Any:
        """One operation of the pass that was handed over."""
        name = TOLD + handed.name
        number = self.ran[name]
        self.ran[name] += 1
        out = handed.work()
        targets = _targets_of(name)
        if handed.func is None:
            targets = [target for target in targets if TARGETS[target].reach != "below"]
        layer = self._names.get(handed.module) or self._running_now
        self._note(name, number, layer, new_results(handed.func, handed.args, {}, out), targets)
        return out

    @property
    def _running_now(self) -> str:
        return self.running[-1] if self.running else ROOT

    def _note(
        self, name: str, number: int, layer: str, results: list[tuple[int, Tensor]], targets: list[TargetName]
    ) -> None:
        for output, result in results:
            self._made[_storage(result)] = layer
            operation = with_output(name, output)
            for target in targets:
                site = _site(target, layer, result, operation, number)
                if target == "output_before_rounding" and result.dtype in ROUNDED:
                    site = Site(
                        target=target,
                        layer=layer,
                        dtype="float32",
                        elements=site.elements,
                        operation=operation,
                        call=number,
                    )
                self.sites.append(site)


def _targets_of(operation: str) -> list[TargetName]:
    product = is_product(operation)
    return [
        name
        for name, target in TARGETS.items()
        if target.reach in ("above", "below") and target.products in (None, product)
    ]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


@contextmanager
def _layers(module: nn.Module | None, running: list[str]) -> Iterator[None]:
    """Keep ``running`` up to date by torch's own hooks, while the survey lasts."""
    with ExitStack() as hooks:
        for name, part in module.named_modules() if module is not None else ():

            def begin(part: nn.Module, args: Any, name: str = name or ROOT) -> None:
                running.append(name)

            def end(part: nn.Module, args: Any, out: Any) -> None:
                running.pop()

            hooks.callback(part.register_forward_pre_hook(begin).remove)
            hooks.callback(part.register_forward_hook(end, always_call=True).remove)
        yield
