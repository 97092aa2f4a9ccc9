"""Convolutions of the members of a stack in Triton: each member's own, with stride 1, without zeros between members.

A program computes a tile of places of one member's maps as one matrix product: (outputs, taps) times (taps, places),
where a tap is a place of the filter and a channel. Numbers are added up in float32; with TF32, those of float32 maps
and weights are rounded before they are multiplied. Places of all images are counted in one go, p = (n * height + i) *
width + j, so that small maps fill tiles up as well. Programs that follow one another have the same places of
neighbouring members: what they write is adjacent where channels come last. Imported only where they run;
``bnexp.training.kernels.own_convolution`` calls them.
"""

from __future__ import annotations

import triton
import triton.language as tl

# mypy knows nothing of Triton's language, nor do annotations: it reads them itself.
# mypy: ignore-errors


@triton.jit
def rounded(x, TF32: tl.constexpr):
    """Float32 rounded to TF32, whose products would drop the other digits; other formats as they are."""
    if TF32 and x.dtype == tl.float32:
        bits = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)  # nan has no digits to round
    return x


@triton.jit
def product(a, b, sums, TF32: tl.constexpr):
    """Sums plus the matrix product of a and b."""
    return tl.dot(rounded(a, TF32), rounded(b, TF32), sums, input_precision="tf32" if TF32 else "ieee")


@triton.jit
def number_of_places(B, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr, PADDING: tl.constexpr):
    """How many places the maps of B images have, of one channel."""
    return B * (H + 2 * PADDING - K + 1) * (W + 2 * PADDING - K + 1)


@triton.jit
def of_taps(first, CHANNELS: tl.constexpr, TAPS: tl.constexpr):
    """Places of the filter and channels of some taps, from a place on: all channels of a place, then the next place."""
    k = tl.arange(0, TAPS)
    return first + k // CHANNELS, k % CHANNELS


@triton.jit
def seen(
    x, place, c, p, B, x_n,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr, PADDING: tl.constexpr,
):  # fmt: skip
    """What taps see from places p of a member's maps: x, [taps, places]; zeros around the images.

    The images of a member, (C, H, W), lie x_n numbers apart.
    """
    height: tl.constexpr = H + 2 * PADDING - K + 1
    width: tl.constexpr = W + 2 * PADDING - K + 1
    a, b = place // K, place % K
    n, i, j = p // (height * width), p // width % height - PADDING, p % width - PADDING
    there = ((place < K * K) & (c < C))[:, None] & (n < B)[None, :]
    if PADDING > 0:
        rows, columns = i[None, :] + a[:, None], j[None, :] + b[:, None]
        there &= (rows >= 0) & (rows < H) & (columns >= 0) & (columns < W)
    at = (n.to(tl.int64) * x_n + i * W + j)[None, :] + ((c * H + a) * W + b)[:, None]
    return tl.load(x + at, there, 0.0)


# The last batch of an epoch is compiled with the others.
@triton.jit(do_not_specialize=["B"])
def convolved(
    x, weight, bias, y, M, B, x_n, x_m, w_m, w_o, w_c,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr, PADDING: tl.constexpr, TF32: tl.constexpr,
    OUT: tl.constexpr, FLIPPED: tl.constexpr, BIASED: tl.constexpr,
    OUTPUTS: tl.constexpr, CHANNELS: tl.constexpr, TAPS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Maps y, in memory (n, i, j, m, o), with a bias [M, OUT].

    x_m is the stride of x from member to member; w_m, w_o, w_c are those of the weight, whose places are adjacent.
    """
    m, tile = tl.program_id(0) % M, tl.program_id(0) // M
    p, o = tile * PLACES + tl.arange(0, PLACES), tl.arange(0, OUTPUTS)
    own, sums = x + m.to(tl.int64) * x_m, tl.zeros((OUTPUTS, PLACES), tl.float32)
    for first in range(0, K * K, TAPS // CHANNELS):
        place, c = of_taps(first, CHANNELS, TAPS)
        at = weight + m * w_m + o[:, None] * w_o + (c * w_c + (K * K - 1 - place if FLIPPED else place))[None, :]
        taps = tl.load(at, (o < OUT)[:, None] & ((place < K * K) & (c < C))[None, :], 0.0)
        values = seen(own, place, c, p, B, x_n, C, H, W, K, PADDING)
        sums = product(taps.to(values.dtype), values, sums, TF32)
    if BIASED:
        sums += tl.load(bias + m * OUT + o, o < OUT, 0.0).to(tl.float32)[:, None]
    there = (o < OUT)[:, None] & (p < number_of_places(B, H, W, K, PADDING))[None, :]
    tl.store(y + (p.to(tl.int64) * M + m)[None, :] * OUT + o[:, None], sums.to(y.dtype.element_ty), there)


@triton.jit(do_not_specialize=["B"])
def part_slopes(
    x, g, parts, M, B, length, x_n, x_m,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr, PADDING: tl.constexpr, TF32: tl.constexpr,
    OUT: tl.constexpr, OUTPUTS: tl.constexpr, CHANNELS: tl.constexpr, TAPS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Slopes of the weights over a part of ``length`` places, into parts [S, M, OUT, C*K*K].

    g, the slopes of maps, lies in memory as these do: (n, i, j, m, o).
    """
    number, chunks = tl.program_id(0), tl.cdiv(K * K, TAPS // CHANNELS)
    m, part = number // chunks % M, number // chunks // M
    place, c = of_taps(number % chunks * (TAPS // CHANNELS), CHANNELS, TAPS)
    o, end = tl.arange(0, OUTPUTS), tl.minimum((part + 1) * length, number_of_places(B, H, W, K, PADDING))
    own, sums = x + m.to(tl.int64) * x_m, tl.zeros((TAPS, OUTPUTS), tl.float32)
    for first in range(part * length, end, PLACES):
        p = first + tl.arange(0, PLACES)
        there = (p < end)[:, None] & (o < OUT)[None, :]
        slopes = tl.load(g + (p.to(tl.int64) * M + m)[:, None] * OUT + o[None, :], there, 0.0)
        values = seen(own, place, c, p, B, x_n, C, H, W, K, PADDING)
        sums = product(values, slopes, sums, TF32)
    at = parts + ((part.to(tl.int64) * M + m) * OUT + o)[None, :] * (C * K * K) + (c * K * K + place)[:, None]
    tl.store(at, sums, ((place < K * K) & (c < C))[:, None] & (o < OUT)[None, :])
