"""What an update that verifies as it reads needs of a parameter: whole storages, and a digest of each beside it.

An update reads and writes block by block, and a block's digest is that of its bytes. So each tensor has to fill its
storage, without gaps and without neighbours, and the digests have to be as many as it has blocks.
"""

from typing import Final, Literal

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.integrity.digest import block_count

Kind = Literal["parameter", "exp_avg", "exp_avg_sq", "step"]
KINDS: Final[tuple[Kind, ...]] = ("parameter", "exp_avg", "exp_avg_sq", "step")
DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter with its state, changed in place, and the digests of their storages, changed in place too.

    ``parameter``, ``exp_avg``, ``exp_avg_sq``: any one shape, one floating dtype, contiguous, each a whole storage.
    ``step``: float32, 0-d. ``digests`` in the order of ``KINDS``: int64 (blocks, 3), the step's (1, 3). All on one
    device. Raises ``ValueError`` naming what does not fit; such a parameter is verified, updated and digested in
    three passes instead.
    """

    parameter: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor
    digests: tuple[Tensor, Tensor, Tensor, Tensor]
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for kind, tensor, sums in zip(KINDS, self.tensors, self.digests, strict=True):
            if reason := _unfit(kind, tensor, self.parameter) or _no_digest(tensor, sums):
                raise ValueError(f"{kind}: {reason}")

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In the order of ``KINDS``."""
        return self.parameter, self.exp_avg, self.exp_avg_sq, self.step

    @property
    def suits_kernel(self) -> bool:
        """Whether a kernel can update it: float32, at addresses it reads vectors from."""
        aligned = all(tensor.data_ptr() % 16 == 0 for tensor in self.tensors[:3])
        return self.parameter.dtype is torch.float32 and aligned


def _unfit(kind: Kind, tensor: Tensor, parameter: Tensor) -> str:
    """Why a tensor of a slot cannot be updated block by block; empty when it can."""
    if kind == "step":
        if tensor.dtype is not torch.float32 or tensor.dim() != 0:
            return f"{tensor.dtype}, {tensor.dim()}-d: a count is one float32"
    elif tensor.dtype is not parameter.dtype or tensor.shape != parameter.shape:
        return f"{tensor.dtype} {tuple(tensor.shape)}, parameter {parameter.dtype} {tuple(parameter.shape)}"
    elif tensor.dtype not in DTYPES:
        return f"{tensor.dtype} is not updated by AdamW"
    if tensor.device != parameter.device:
        return f"on {tensor.device}, parameter on {parameter.device}"
    if not tensor.is_contiguous() or tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
        return "not a whole storage in one piece"
    return ""


def _no_digest(tensor: Tensor, sums: Tensor) -> str:
    """Why ``sums`` is no digest of a tensor's storage; empty when it may be one."""
    blocks = block_count(tensor.numel() * tensor.element_size())
    if sums.dtype is not torch.int64 or tuple(sums.shape) != (blocks, 3) or sums.device != tensor.device:
        return f"digest {sums.dtype} {tuple(sums.shape)} on {sums.device}: int64 ({blocks}, 3) is needed beside it"
    return ""
