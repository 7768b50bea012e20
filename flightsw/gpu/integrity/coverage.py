"""What of a protected module is covered, layer by layer and operation by operation, and what is not.

Three answers, from three sources: *layers* from the module itself (what memory and kind of arithmetic each has),
*operations* from the passes that were looked at (what torch really ran, in which layer, and how that is checked),
*memory* from the regions (what could not be guarded, and why). What is not covered comes first, with its reason:
a gap that nobody reads about is a gap that nobody closes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from torch import nn

from flightsw.gpu.integrity.levels import LEVELS
from flightsw.gpu.integrity.operations import COVERED, Cover
from flightsw.link.integrity import Level

OUTSIDE: Final = "outside of any layer, backward"
"""Where operations are counted that no layer's forward call has run."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of operation in one layer, as seen so far."""

    name: str
    layer: str
    count: int
    by: str
    covered: bool


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One module that has parameters or ran operations of its own."""

    name: str
    kind: str
    memory: str
    """What guards its weights; empty when it has none."""
    arithmetic: str
    """What checks its operations; from the pass that was surveyed."""
    covered: bool


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer. ``gaps`` first."""

    level: str
    every: dict[str, int]
    """Which passes are looked at: every n-th, by detector; 0 is none."""
    gaps: tuple[tuple[str, str], ...]
    """What is not covered: name and reason."""
    layers: tuple[Layer, ...]
    operations: tuple[Operation, ...]

    @property
    def complete(self) -> bool:
        """Whether there is no gap."""
        return not self.gaps

    def json(self) -> bytes:
        """The same as JSON."""
        return msgspec.json.encode(self)

    def __str__(self) -> str:
        looks = ", ".join(
            f"{name} {'every pass' if n == 1 else f'every {n}th pass' if n else 'never'}"
            for name, n in self.every.items()
        )
        lines = [f"level {self.level}: {looks}", ""]
        lines += ["not covered:"] if self.gaps else ["not covered: nothing that was seen"]
        lines += [f"  {name}: {reason}" for name, reason in self.gaps]
        rows = [("layer", "kind", "memory", "arithmetic")]
        rows += [(layer.name, layer.kind, layer.memory or "-", layer.arithmetic) for layer in self.layers]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines.append("")
        lines += [
            "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]))
            for row in rows
        ]
        return "\n".join(lines)


def coverage_of(
    module: nn.Module,
    seen: Counter[tuple[Any, Cover, str]],
    left_out: Sequence[tuple[str, str]],
    *,
    level: Level,
    compute: bool,
    compiled: Sequence[str],
    wide: bool,
) -> Coverage:
    """From the module, the operations seen (operator, cover, layer) and the memory that is not guarded."""
    vigilance = LEVELS[level]
    by_layer: dict[str, set[Cover]] = defaultdict(set)
    counts: Counter[tuple[str, Cover, str]] = Counter()
    for (operator, cover, layer), count in seen.items():
        if cover not in (Cover.VIEW, Cover.MADE, Cover.COMPOSITE):
            by_layer[layer].add(cover)
            counts[operator._schema.name.removeprefix("aten::"), cover, layer] += count
    gaps: list[tuple[str, str]] = [(name, f"memory: {reason}") for name, reason in left_out]
    gaps += [(name, "compiled: its operations are not seen one by one; its memory is guarded") for name in compiled]
    gaps += sorted(
        {(f"{name} in {layer or OUTSIDE}", cover.value) for name, cover, layer in counts if cover not in COVERED}
    )
    layers = []
    for name, part in module.named_modules():
        own = list(part.named_parameters(recurse=False)) + list(part.named_buffers(recurse=False))
        covers = by_layer.get(name, set())
        if not own and not covers:
            continue
        bare = [full for full, _ in left_out if full.split(" ", 1)[-1] in {_join(name, local) for local, _ in own}]
        if not compute:
            arithmetic = "not looked at: memory only"
        elif not covers:
            arithmetic = "not seen in a pass yet, or run by its parent"
        else:
            arithmetic = ", ".join(sorted({cover.value for cover in covers}))
        layers.append(
            Layer(
                name=name or "(itself)",
                kind=type(part).__name__,
                memory="" if not own else f"not guarded: {', '.join(bare)}" if bare else "digest",
                arithmetic=arithmetic,
                covered=not bare and bool(covers) and covers <= COVERED,
            )
        )
    every = {
        "checksum": vigilance.checksum_every,
        "repeat": vigilance.repeat_every,
        "transit": vigilance.transit_every,
    }
    if not compute and not compiled:
        gaps.append(("arithmetic", "compute=False: memory only"))
    if any(dtype_is_half(part) for part in module.parameters()) and not wide and compute:
        gaps.append(("half-precision products", "checked after rounding only; protect with wide=True"))
    operations = tuple(
        Operation(name=name, layer=layer, count=count, by=cover.value, covered=cover in COVERED)
        for (name, cover, layer), count in sorted(counts.items(), key=lambda item: (item[0][2], item[0][0]))
    )
    return Coverage(
        level=level.name.lower(), every=every, gaps=tuple(gaps), layers=tuple(layers), operations=operations
    )


def compiled_parts(module: nn.Module) -> Iterator[str]:
    """Names of parts that torch.compile has replaced or marked; the module itself is "the module"."""
    for name, part in module.named_modules():
        if type(part).__name__ == "OptimizedModule" or getattr(part, "_compiled_call_impl", None) is not None:
            yield name or "the module"


def _join(name: str, local: str) -> str:
    return f"{name}.{local}" if name else local


def dtype_is_half(tensor: Any) -> bool:
    """Whether a parameter is of half precision."""
    return str(tensor.dtype) in ("torch.bfloat16", "torch.float16")
