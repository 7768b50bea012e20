"""How a kernel for the processor is made: Python, compiled by Numba at its first call.

An interpreter that hands whole tensors from one operator of torch to the next reads memory once for each of them.
A kernel reads a row once and does all that there is to do with it while it is in the core's own cache: on a
processor that halves what the checks cost, as they cost little but reading. Each kernel has a plain form in torch's
operators, which runs where Numba is not installed. Sums of integers agree bit for bit with it; sums of floats agree
within the bounds they are held to, which hold for any order of summation.

What was compiled is kept beside the package, or in the user's cache where that may not be written, or for this
process only where nothing may be; in a folder named after the sources of all kernels, as one is compiled into
another and Numba looks at the file of the outer one only. A kernel runs on the thread that calls it, without the
interpreter's lock.

*Addresses.* A tensor costs a microsecond to become an array, and a number none. So kernels of small operations take
addresses (``Tensor.data_ptr``) and counts, and whoever calls them keeps the memory alive and has looked at dtype,
layout and size.

*How to write one that is fast.* Slices with unsigned or ``range`` bounds, so that the compiler need not think of
negative indices; innermost loops over one array or two, straight on; accumulators in local arrays that fit the
first cache; ``FAST`` for float sums, or the loop is not vectorised.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

PREFIX: Final = "native-"
"""Of the names of folders of compiled kernels; those of other sources are removed."""
FAST: Final = frozenset({"reassoc", "nsz", "contract"})
"""Sums in any order, products fused with sums. NaN and infinity keep their meaning: alarms live by it."""


def compiled(function: Kernel) -> Kernel:
    """A kernel whose arithmetic is that of its source, step by step: integers, or floats in a fixed order."""
    return _compiled(function, fast=False)


def compiled_fast(function: Kernel) -> Kernel:
    """A kernel whose float sums may be formed in any order."""
    return _compiled(function, fast=True)


def _compiled(function: Kernel, *, fast: bool) -> Kernel:
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(FAST) if fast else False}
    return cast(Kernel, numba.njit(cache=_CACHED, **options)(function))


def _folder() -> Path | None:
    """Where compiled kernels of these sources are kept; None where nothing may be written."""
    here = Path(__file__).parent
    sources = hashlib.sha256()
    for source in sorted(here.glob("native*.py")):
        sources.update(source.read_bytes())
    name = f"{PREFIX}{sources.hexdigest()[:16]}"
    places = [here / "__pycache__"]
    with contextlib.suppress(RuntimeError):  # There may be no home.
        places.append(Path.home() / ".cache" / "gpusat")
    for place in places:
        with contextlib.suppress(OSError):
            (place / name).mkdir(parents=True, exist_ok=True)
            if os.access(place / name, os.W_OK):
                for other in place.glob(f"{PREFIX}*"):
                    if other.name != name:
                        shutil.rmtree(other, ignore_errors=True)
                return place / name
    return None


_FOLDER: Final = _folder()
_CACHED: Final = _FOLDER is not None
if _FOLDER is not None:
    numba.config.CACHE_DIR = str(_FOLDER)


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(context: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.intp), code


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def words_at(address: int, count: int) -> Any:
    """Memory as int64 (count,)."""
    return numba.carray(_pointer(address), (count,), np.int64)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def floats_at(address: int, count: int) -> Any:
    """Memory as float32 (count,)."""
    return numba.carray(_pointer(address), (count,), np.float32)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def bytes_at(address: int, count: int) -> Any:
    """Memory as uint8 (count,)."""
    return numba.carray(_pointer(address), (count,), np.uint8)
