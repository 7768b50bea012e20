"""Compile every kernel for a card of compute capability 9.0, which needs no card; print what each one takes.

``test_integrity_kernels`` runs this in a process of its own: the interpreter must not be chosen there.
"""

import json
import subprocess
import sys
import tempfile

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from flightsw.gpu.integrity import kernels_adamw, kernels_digest, kernels_gemm
from flightsw.gpu.integrity.digest import BLOCK_WORDS

# Of each kernel: types of its arguments as a launch would find them, which of them are multiples of 16, constants.
DIGEST = (
    kernels_digest._digest_kernel,
    {"memory": "*u8", "sums": "*i64", "size_bytes": "i64"},
    (0, 1),
    {"BLOCK_WORDS": BLOCK_WORDS, "TILE": kernels_digest.TILE, "STAGES": kernels_digest.STAGES},
    {"num_warps": kernels_digest.WARPS},
)
ADAMW = (
    kernels_adamw._adamw_kernel,
    {
        "table": "*i64",
        "gradients": "*i64",
        "scalars": "*fp32",
        "lost": "*i1",
        "differences": "*i64",
        "beta1": "fp32",
        "beta2": "fp32",
        "epsilon": "fp32",
    },
    (0, 1, 2, 3, 4),
    {"COLUMNS": kernels_adamw.COLUMNS, "TILE": kernels_adamw.TILE, "STAGES": kernels_adamw.STAGES},
    {"num_warps": kernels_adamw.WARPS},
)
GEMM = (
    kernels_gemm._mm_kernel,
    {
        **dict.fromkeys(("a", "b", "bias", "c"), "*bf16"),
        "sums": "*fp32",
        **dict.fromkeys(("m", "n", "k", "a_row"), "i32"),
        "a_column": "constexpr",
        "b_row": "constexpr",
        "b_column": "i32",
    },
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 11),
    {
        "a_column": 1,
        "b_row": 1,
        "HAS_BIAS": True,
        "WIDEN": False,
        **{name: getattr(kernels_gemm, name) for name in ("TILE_M", "TILE_N", "TILE_K", "GROUP")},
    },
    {"num_warps": kernels_gemm.WARPS, "num_stages": kernels_gemm.STAGES},
)


def compiled(kernel, types, aligned, constants, options):
    """Registers and bytes of stack of a thread, and the compiler's text."""
    source = ASTSource(
        fn=kernel,
        signature={**types, **dict.fromkeys(constants, "constexpr")},
        constexprs=constants,
        attrs={(index,): [["tt.divisibility", 16]] for index in aligned},
    )
    result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        usage = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    words = dict(word.split(":", 1) for word in usage.split() if ":" in word and word[0].isupper())
    return {"registers": int(words["REG"]), "stack_bytes": int(words["STACK"]), "ptx": result.asm["ptx"]}


if __name__ == "__main__":
    kernels = {"digest": DIGEST, "adamw": ADAMW, "gemm": GEMM}
    json.dump({name: compiled(*kernel) for name, kernel in kernels.items()}, sys.stdout)
