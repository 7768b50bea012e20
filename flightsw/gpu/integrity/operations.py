"""How each operation of a pass is covered: policy as a table over aten operators.

A pass is seen operation by operation, forward and backward, whatever module called it. Almost all of them are
covered by rule, from what the operator's own schema says: a view moves nothing, an operator that changes its
argument is repeated on a copy of it, a random one with the generator put back, every other is done twice and
compared. ``TABLE`` holds what the schema does not say. What nobody has thought of is repeated, not skipped.
"""

import enum
import functools
from typing import Any, Final

import torch


class Cover(enum.Enum):
    """What is done about an operation; ``text`` is what the coverage table says."""

    CHECKSUM = "checked against the sums of its operands"
    IDENTITY = "checked against identities of its results, or formed again beside them; done twice where that fails"
    LATER = "checked by identities of its backward operation; formed again or done twice where there is none"
    COPY = "its sum compared with that of what is copied, or done twice"
    REPEAT = "done twice, compared"
    RANDOM = "done twice with the generator put back, compared"
    CHANGE = "done twice, the second time on a copy of what it changes, compared"
    STORE = "what was stored is read back and compared"
    READ = "its input is verified, its result read twice"
    VIEW = "moves and computes nothing"
    GIVEN = "the host's own numbers: verified from here on"
    MADE = "memory without contents"
    REMADE = "memory without contents in place of what a tensor had, which is looked at before"
    COMPOSITE = "its parts are covered"
    STATE = "not covered here: state digests before and after, replay of steps"
    UNSTABLE = "not covered: its result is not repeatable on this device"
    UNSEEN = "not covered: a tensor type of its own hides the arithmetic"


COVERED: Final = frozenset(Cover) - {Cover.STATE, Cover.UNSTABLE, Cover.UNSEEN}

TABLE: Final[dict[str, Cover]] = {
    "aten::mm": Cover.CHECKSUM,
    "aten::addmm": Cover.CHECKSUM,
    "aten::bmm": Cover.CHECKSUM,
    "aten::baddbmm": Cover.CHECKSUM,
    "aten::linear": Cover.CHECKSUM,
    "aten::_unsafe_view": Cover.VIEW,
    "aten::lift_fresh": Cover.GIVEN,
    "aten::empty": Cover.MADE,
    "aten::empty_like": Cover.MADE,
    "aten::empty_strided": Cover.MADE,
    "aten::empty_permuted": Cover.MADE,
    "aten::new_empty": Cover.MADE,
    "aten::new_empty_strided": Cover.MADE,
    "aten::resize_": Cover.REMADE,
    "aten::set_": Cover.REMADE,
    "aten::detach_": Cover.VIEW,
    # Marks of a profile, of which no two are the same; sizes that Python asks torch for.
    "profiler::_record_function_enter": Cover.VIEW,
    "profiler::_record_function_enter_new": Cover.VIEW,
    "profiler::_record_function_exit": Cover.VIEW,
    "aten::sym_numel": Cover.VIEW,
    "aten::sym_size": Cover.VIEW,
    "aten::sym_storage_offset": Cover.VIEW,
    "aten::sym_stride": Cover.VIEW,
    "aten::_local_scalar_dense": Cover.READ,
    "aten::item": Cover.READ,
    "aten::equal": Cover.READ,
    "aten::is_nonzero": Cover.READ,
    "aten::index_put_": Cover.STORE,
    "aten::_index_put_impl_": Cover.STORE,
    "aten::copy_": Cover.STORE,
    "aten::zero_": Cover.STORE,
    "aten::fill_": Cover.STORE,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": Cover.IDENTITY,
    "aten::gelu_backward": Cover.IDENTITY,
    # Attention is tagged as random for its dropout; with one it is repeated, the generator put back.
    "aten::_scaled_dot_product_flash_attention_for_cpu": Cover.LATER,
    "aten::gelu": Cover.LATER,
    "aten::clone": Cover.COPY,
    "aten::stack": Cover.COPY,
    "aten::cat": Cover.COPY,
}
"""By operator name; every other follows the rules of ``cover_of``."""

ON_PROCESSOR: Final = frozenset(
    {
        "aten::add",
        "aten::embedding",
        "aten::mul",
        "aten::native_layer_norm",
        "aten::native_layer_norm_backward",
        "aten::sum",
    }
)
"""Operators whose results kernels of the processor check (``identities``); elsewhere the rules hold for them, as
they do for their forms that write into an argument."""

UNSTABLE_ON_CUDA: Final = frozenset(
    {
        "aten::_efficient_attention_backward",
        "aten::_scaled_dot_product_efficient_attention_backward",
        "aten::cumsum",
        "aten::embedding_dense_backward",
        "aten::index_add",
        "aten::index_add_",
        "aten::scatter_add",
        "aten::scatter_add_",
        "aten::scatter_reduce",
        "aten::histc",
        "aten::bincount",
        "aten::upsample_bilinear2d_backward",
        "aten::grid_sampler_2d_backward",
        "aten::_ctc_loss_backward",
        "aten::nll_loss2d_forward",
    }
)
"""Operators that add in no fixed order there, from the list of ``torch.use_deterministic_algorithms``. With
deterministic algorithms they have a fixed order or refuse, and are repeated like the others."""

HIDDEN_WRITES: Final[dict[str, tuple[str, ...]]] = {
    "aten::native_batch_norm": ("running_mean", "running_var"),
    "aten::cudnn_batch_norm": ("running_mean", "running_var"),
    "aten::miopen_batch_norm": ("running_mean", "running_var"),
    "aten::mkldnn_rnn_layer_backward": ("workspace",),
}
"""Arguments that an operator changes although its schema does not say so: done twice, they would move twice."""

SCRATCH: Final[dict[str, int]] = {"aten::mkldnn_rnn_layer": 3}
"""Which of its results an operator leaves to its backward one partly unwritten: two runs differ there."""

STATE_PREFIXES: Final = ("aten::_foreach_", "aten::_fused_", "aten::_amp_")
"""Updates of whole lists of tensors in place: the optimiser's. What of such a name does not end so (the norms of
gradients, a fused norm, the helper of quantisation's observers) is an operation as any other."""

FLOATS: Final = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""Dtypes of matrix products that have a bound. Others (integer, complex, fp8) are repeated."""


def cover_of(operator: Any, device: str, *, deterministic: bool) -> Cover:
    """How an ``OpOverload`` is covered on a device type; ``deterministic`` is torch's switch of that name."""
    name: str = operator._schema.name
    if device == "cuda" and not deterministic and name in UNSTABLE_ON_CUDA:
        return Cover.UNSTABLE
    if name in TABLE:
        return TABLE[name]
    if composite(operator, device):
        # Before the question for views: `to` and `reshape` call themselves views, and may compute.
        return Cover.COMPOSITE
    if operator.is_view:
        return Cover.VIEW
    if name.startswith(STATE_PREFIXES) and name.endswith("_"):
        return Cover.STATE
    if name in ON_PROCESSOR and device == "cpu" and not operator._schema.is_mutable:
        return Cover.IDENTITY
    random = torch.Tag.nondeterministic_seeded in operator.tags
    if operator._schema.is_mutable or name in HIDDEN_WRITES:
        return Cover.CHANGE
    return Cover.RANDOM if random else Cover.REPEAT


def composite(operator: Any, device: str) -> bool:
    """Whether torch itself computes it as others: seen whole in inference mode only. Some, as SiLU's backward
    operation, are written so as well, but have a kernel of a device's own, whose bits are others."""
    has: Any = torch._C._dispatch_has_kernel_for_dispatch_key
    name = operator.name()
    if not torch._C._dispatch_has_kernel(name):
        # Torch knows some in Python only, and an error from here would end the process where it asks for a size.
        return False
    return bool(has(name, "CompositeImplicitAutograd") and not has(name, device.upper()))


@functools.cache
def is_random(operator: Any) -> bool:
    """Whether it may draw from a generator."""
    return torch.Tag.nondeterministic_seeded in operator.tags


def written(operator: Any) -> tuple[tuple[int, str], ...]:
    """Arguments that it changes: position and name."""
    hidden = HIDDEN_WRITES.get(operator._schema.name, ())
    return tuple(
        (index, argument.name)
        for index, argument in enumerate(operator._schema.arguments)
        if argument.name in hidden or (argument.alias_info is not None and argument.alias_info.is_write)
    )


def targets(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """What a call of it changes."""
    return [args[index] if index < len(args) else kwargs.get(name) for index, name in written(operator)]
