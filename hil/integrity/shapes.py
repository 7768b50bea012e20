"""What a particle does to bits: shapes of faults, their shares, and their application to values of any dtype.

A shape says which bits of which elements change. Elements are seen as unsigned integers of their own width, so one
rule serves every dtype; a table says how wide a dtype is and which bits are its NaN. "Word" in the stride of a
strided fault is the tensor's own element; a 64-bit element is two of the 32-bit words that a digest counts.

    nullify          the element becomes zero                         (stuck-at logic: an operand is gated off)
    single_bit       one bit
    multi_bit        two to four bits anywhere in the element
    byte_contiguous  two or more bits within one aligned byte         (how memory's own multi-bit upsets look)
    strided          the same bit of elements a power of two apart    (an address or a data line)
    nan              the element becomes NaN; integers have none

**Shares.** ``PUBLISHED``: of the events at the output of a faulty unit 51 % nullify, 48 % flip, 60 % of these more
than one bit, 1 % NaN (NVIDIA, DSN'26, arXiv 2605.04213, gate-level stuck-at faults); of multi-bit events about 75 %
stay within a byte (NVIDIA, MICRO'21, HBM2 in a neutron beam). How the rest divides into scattered and strided is
not published; halves are our assumption. ``UNIFORM_BIT`` is every bit alike, the prior of most injection studies.
The published shares are those of stuck-at logic, not of particle strikes, so both are always reported side by side.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

import msgspec
import torch

ShapeName = Literal["nullify", "single_bit", "multi_bit", "byte_contiguous", "strided", "nan"]
SHAPES: Final[tuple[ShapeName, ...]] = get_args(ShapeName)

MULTI_BITS_MAX: Final = 4
STRIDE_LOG2_MAX: Final = 12
"""Longest stride: 4,096 elements."""
STRIDED_WORDS_MAX: Final = 4
"""Elements that a strided fault hits at most, unless a prior says less."""
BYTE_BITS: Final = 8


class Format(msgspec.Struct, frozen=True):
    """How the elements of a dtype are seen: ``bits`` can be hit, of ``size_bytes``; ``nan`` is its quiet NaN."""

    size_bytes: int
    bits: int
    nan: int | None = None


FORMATS: Final[dict[torch.dtype, Format]] = {
    torch.float64: Format(8, 64, 0x7FF8_0000_0000_0000),
    torch.float32: Format(4, 32, 0x7FC0_0000),
    torch.bfloat16: Format(2, 16, 0x7FC0),
    torch.float16: Format(2, 16, 0x7E00),
    torch.float8_e4m3fn: Format(1, 8, 0x7F),
    torch.float8_e5m2: Format(1, 8, 0x7E),
    torch.float8_e4m3fnuz: Format(1, 8, 0x80),
    torch.float8_e5m2fnuz: Format(1, 8, 0x80),
    torch.int64: Format(8, 64),
    torch.int32: Format(4, 32),
    torch.int16: Format(2, 16),
    torch.int8: Format(1, 8),
    torch.uint8: Format(1, 8),
    # Any other bit of a truth value makes it one that torch does not define.
    torch.bool: Format(1, 1),
}
DTYPES: Final[dict[str, torch.dtype]] = {str(dtype).removeprefix("torch."): dtype for dtype in FORMATS}
"""Names of the dtypes as an injection carries them."""


class NoShape(ValueError):
    """A shape or a dtype that does not exist, or not together; the text is one line."""


class Pattern(msgspec.Struct, frozen=True, kw_only=True):
    """One drawn shape. ``bits`` counts from the least significant; ``stride`` and ``words`` count elements."""

    shape: ShapeName
    bits: tuple[int, ...] = ()
    stride: int = 0
    words: int = 1


class Prior(msgspec.Struct, frozen=True, kw_only=True):
    """How often each shape comes; shares are relative."""

    name: str
    shares: Mapping[ShapeName, float]
    strided_words_max: int = STRIDED_WORDS_MAX

    def only(self, *shapes: ShapeName, strided_words_max: int = 0) -> "Prior":
        """This prior narrowed to some shapes, with a name of its own. Raises ``NoShape`` for one it lacks."""
        for shape in shapes:
            if shape not in self.shares:
                raise NoShape(f'prior {self.name} has no shape "{shape}"; it has {", ".join(self.shares)}')
        words = strided_words_max or self.strided_words_max
        suffix = "" if words == self.strided_words_max else f":{words}"
        kept = shapes or tuple(self.shares)
        name = f"{self.name}:{'+'.join(shapes)}{suffix}" if shapes else f"{self.name}{suffix}"
        return Prior(name=name, shares={shape: self.shares[shape] for shape in kept}, strided_words_max=words)


_FLIP: Final = 0.48
_MULTI: Final = 0.60
_IN_A_BYTE: Final = 0.75
PUBLISHED: Final = Prior(
    name="published",
    shares={
        "nullify": 0.51,
        "single_bit": _FLIP * (1.0 - _MULTI),
        "multi_bit": _FLIP * _MULTI * (1.0 - _IN_A_BYTE) / 2.0,
        "byte_contiguous": _FLIP * _MULTI * _IN_A_BYTE,
        "strided": _FLIP * _MULTI * (1.0 - _IN_A_BYTE) / 2.0,
        "nan": 0.01,
    },
)
UNIFORM_BIT: Final = Prior(name="uniform_bit", shares={"single_bit": 1.0})
EVEN: Final = Prior(name="even", shares=dict.fromkeys(SHAPES, 1.0))
"""Every shape alike: for a table by shape, where a rare shape needs as many samples as a common one."""
PRIORS: Final = {prior.name: prior for prior in (PUBLISHED, UNIFORM_BIT, EVEN)}


def format_of(dtype: torch.dtype) -> Format:
    """How a dtype is seen. Raises ``NoShape`` for one that has no plain elements (complex, quantised)."""
    if dtype not in FORMATS:
        raise NoShape(f"{dtype} has no elements that can be hit; there are {', '.join(DTYPES)}")
    return FORMATS[dtype]


def dtype_named(name: str) -> torch.dtype:
    """The dtype of an injection. Raises ``NoShape`` for an unknown name."""
    if name not in DTYPES:
        raise NoShape(f'dtype "{name}" is unknown; there are {", ".join(DTYPES)}')
    return DTYPES[name]


def shapes_of(dtype: torch.dtype) -> tuple[ShapeName, ...]:
    """Shapes that exist for a dtype: integers have no NaN, a single bit no second one."""
    form = format_of(dtype)
    lacking = {"nan"} if form.nan is None else set()
    if form.bits < BYTE_BITS:
        lacking |= {"multi_bit", "byte_contiguous"}
    return tuple(shape for shape in SHAPES if shape not in lacking)


def draw_pattern(rng: random.Random, prior: Prior, dtype: torch.dtype, elements: int) -> Pattern:
    """A shape by the prior's shares among those that exist for the dtype and a tensor of so many elements.

    Always the same number of draws for the same shape. Raises ``NoShape`` when the prior has none that exists.
    """
    possible = [
        shape for shape in prior.shares if shape in shapes_of(dtype) and (shape != "strided" or elements > 1)
    ]
    weights = [prior.shares[shape] for shape in possible]
    if not possible or sum(weights) <= 0.0:
        raise NoShape(
            f"prior {prior.name} has only {', '.join(prior.shares)}; "
            f"{elements} elements of {dtype} can be hit by {', '.join(shapes_of(dtype))}"
        )
    (shape,) = rng.choices(possible, weights)
    return _DRAWS[shape](rng, format_of(dtype), elements, prior.strided_words_max)


def _nullify(rng: random.Random, form: Format, elements: int, words_max: int) -> Pattern:
    return Pattern(shape="nullify")


def _nan(rng: random.Random, form: Format, elements: int, words_max: int) -> Pattern:
    return Pattern(shape="nan")


def _single(rng: random.Random, form: Format, elements: int, words_max: int) -> Pattern:
    return Pattern(shape="single_bit", bits=(rng.randrange(form.bits),))


def _multi(rng: random.Random, form: Format, elements: int, words_max: int) -> Pattern:
    count = rng.randint(2, MULTI_BITS_MAX)
    return Pattern(shape="multi_bit", bits=tuple(sorted(rng.sample(range(form.bits), count))))


def _byte(rng: random.Random, form: Format, elements: int, words_max: int) -> Pattern:
    start = rng.randrange(form.bits // BYTE_BITS) * BYTE_BITS
    # Every pattern of two bits or more within the byte is as likely as any other.
    mask = rng.choice([mask for mask in range(1 << BYTE_BITS) if mask.bit_count() >= 2])
    return Pattern(shape="byte_contiguous", bits=tuple(start + bit for bit in range(BYTE_BITS) if mask >> bit & 1))


def _strided(rng: random.Random, form: Format, elements: int, words_max: int) -> Pattern:
    longest = min(STRIDE_LOG2_MAX, (elements - 1).bit_length() - 1)
    stride = 1 << rng.randint(0, longest)
    words = rng.randint(2, max(2, min(words_max, -(-elements // stride))))
    return Pattern(shape="strided", bits=(rng.randrange(form.bits),), stride=stride, words=words)


_DRAWS: Final = {
    "nullify": _nullify,
    "nan": _nan,
    "single_bit": _single,
    "multi_bit": _multi,
    "byte_contiguous": _byte,
    "strided": _strided,
}


def elements_hit(pattern: Pattern, place: float, elements: int) -> tuple[int, ...]:
    """Flat indices that a pattern hits in a tensor of so many elements; ``place`` is 0 to 1, 1 excluded.

    A strided pattern is laid so that all of it fits; in a tensor that is too small for all its words it has as
    many as fit.
    """
    assert elements > 0, "nothing to hit"
    assert 0.0 <= place < 1.0, "a place lies within"
    if pattern.shape != "strided":
        return (int(place * elements),)
    words = min(pattern.words, -(-elements // pattern.stride))
    first = int(place * (elements - (words - 1) * pattern.stride))
    return tuple(first + number * pattern.stride for number in range(words))


def damaged(pattern: Pattern, form: Format, old: int) -> int:
    """The element that ``old`` becomes, both as unsigned integers of the element's width. Raises ``NoShape``."""
    if pattern.shape == "nullify":
        return 0
    if pattern.shape == "nan":
        if form.nan is None:
            raise NoShape("an integer has no NaN; give another shape")
        return form.nan
    return old ^ mask_of(pattern.bits, form)


def mask_of(bits: Sequence[int], form: Format) -> int:
    """Bits as a mask. Raises ``NoShape`` for a bit that the format does not have."""
    for bit in bits:
        if not 0 <= bit < form.bits:
            raise NoShape(
                f"bit {bit} does not exist; elements of {form.size_bytes} bytes have 0 to {form.bits - 1}"
            )
    return sum(1 << bit for bit in set(bits))
