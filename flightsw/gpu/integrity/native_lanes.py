"""Sums of words in registers, one lane for each word of a tile: what digests of memory and of slots are made of.

A tile is ``LANES`` words. A lane keeps the words' sum, the sum of that sum, and the sum of that, as Fletcher's
checksum does: after n tiles a word x of tile t has gone

    once into A        n − t times into B        (n − t)(n − t + 1) / 2 times into C

so the weights cost no multiplication. With u = n − t and j = 1 … LANES the lane, i + 1 is (n · LANES + j) less
u · LANES,
and with P = n · LANES + j follows once, over the lanes and modulo 2⁶⁴,

    S1 = Σ A        S2 = Σ (P A − LANES B)        S3 = Σ (P² A − 2 P LANES B + LANES² (2 C − B))

A loop over arrays fetches and stores the lanes at every step, three of them for each that is read. Here they never
leave the registers, and memory is read as fast as it comes.
"""

from typing import Any, Final

import numpy as np
from numba import types
from numba.core.cgutils import ir
from numba.extending import intrinsic

from flightsw.gpu.integrity.native import compiled, words_at
from flightsw.gpu.integrity.native_vectors import LINE_BYTES, wide

LANES: Final = 16
"""Words: a cache line."""
SECOND_CACHE: Final = 2
"""Where it is brought to. Of lines on their way to the first one there are 16 at a time, which is too few."""
_SUMS: Final = 3


@intrinsic  # type: ignore[untyped-decorator]
def _lanes_of(context: Any, begin: Any, groups: Any, step: Any, tiles: Any, ahead: Any, out: Any) -> Any:
    """Lanes (3, ``LANES``), int64, of ``groups`` times ``tiles`` tiles into ``out``; groups are ``step`` bytes
    apart. While one is read, what is ``ahead`` bytes after it is asked for. At least one tile."""
    word, small, pointer = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()
    read, lane = ir.VectorType(small, LANES), ir.VectorType(word, LANES)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        begin, groups, step, tiles, ahead, out = arguments
        kind = ir.FunctionType(ir.VoidType(), (pointer, small, small, small))
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (pointer,), kind)
        before = builder.block
        outer, inner = builder.append_basic_block("group"), builder.append_basic_block("tile")
        after, done = builder.append_basic_block("next"), builder.append_basic_block("done")
        builder.branch(outer)

        builder.position_at_end(outer)
        group, first = builder.phi(word), builder.phi(word)
        carried = [builder.phi(lane) for _ in range(_SUMS)]
        group.add_incoming(word(0), before)
        first.add_incoming(begin, before)
        for one in carried:
            one.add_incoming(ir.Constant(lane, [0] * LANES), before)
        builder.branch(inner)

        builder.position_at_end(inner)
        tile, place = builder.phi(word), builder.phi(word)
        tile.add_incoming(word(0), outer)
        place.add_incoming(first, outer)
        kept = [builder.phi(lane) for _ in range(_SUMS)]
        wanted = builder.inttoptr(builder.add(place, ahead), pointer)
        builder.call(prefetch, (wanted, small(0), small(SECOND_CACHE), small(1)))
        added = builder.sext(builder.load(builder.inttoptr(place, read.as_pointer()), align=4), lane)
        made = []
        for one, from_outer in zip(kept, carried, strict=True):
            added = builder.add(one, added)
            one.add_incoming(from_outer, outer)
            one.add_incoming(added, inner)
            made.append(added)
        following = builder.add(tile, word(1))
        tile.add_incoming(following, inner)
        place.add_incoming(builder.add(place, word(LINE_BYTES)), inner)
        builder.cbranch(builder.icmp_signed("<", following, tiles), inner, after)

        builder.position_at_end(after)
        following = builder.add(group, word(1))
        group.add_incoming(following, after)
        first.add_incoming(builder.add(first, step), after)
        for one, sums in zip(carried, made, strict=True):
            one.add_incoming(sums, after)
        builder.cbranch(builder.icmp_signed("<", following, groups), outer, done)

        builder.position_at_end(done)
        for k, sums in enumerate(made):
            place = builder.add(out, word(k * LANES * 8))
            builder.store(sums, builder.inttoptr(place, lane.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.none(*(types.int64,) * 6), code


@compiled
def sums_of_lanes(begin: int, groups: int, step: int, tiles: int, before: int, ahead: int, room: int) -> Any:
    """S1, S2, S3 of ``groups`` times ``tiles`` tiles, one group ``step`` bytes after the other, of a block in which
    ``before`` words come before them. ``room``: address of (3, ``LANES``) int64."""
    wide()
    first, second, third = np.int64(0), np.int64(0), np.int64(0)
    count = groups * tiles
    if step == tiles * LINE_BYTES:
        groups, tiles = 1, count
    if count == 0:
        return first, second, third
    _lanes_of(begin, groups, step, tiles, ahead, room)
    lanes = words_at(room, _SUMS * LANES)
    for j in range(LANES):
        place = np.int64(before + count * LANES + j + 1)
        a, b, c = lanes[j], LANES * lanes[LANES + j], lanes[2 * LANES + j]
        first += a
        second += place * a - b
        third += place * (place * a - 2 * b) + LANES * (2 * LANES * c - b)
    return first, second, third
