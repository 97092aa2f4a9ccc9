"""Batch norm, with a ReLU or without, and max pooling in Triton; maps with channels last are R rows of C channels.

Each kernel reads and writes its maps once, in tiles of rows and channels, and adds up in float32. The two reductions
over rows have two stages, a part of the rows each and then all parts, in an order that does not depend on timing: the
same numbers give the same bits. Imported only where they run; ``short_maps`` and ``own_batch_norm`` call them.
"""

from __future__ import annotations

import triton
import triton.language as tl

# mypy knows nothing of Triton's language, nor do annotations: it reads them itself.
# mypy: ignore-errors


@triton.jit
def own_place(C, CHANNELS: tl.constexpr):
    """Which tile or part of the rows a program has, and which channels; neighbours in memory are neighbours in time."""
    tiles = tl.cdiv(C, CHANNELS)
    number = tl.program_id(0)
    return number // tiles, number % tiles * CHANNELS + tl.arange(0, CHANNELS)


@triton.jit
def own_tile(R, C, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """The rows and channels of a program's tile, and which of its numbers there are."""
    tile, c = own_place(C, CHANNELS)
    r = tile * ROWS + tl.arange(0, ROWS)
    return r, c, (r < R)[:, None] & (c < C)[None, :]


@triton.jit
def part_moments(x, parts, R, C, length, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Mean and sum of squared deviations of a part of ``length`` rows, into parts [S, 2, C]; Welford's updates."""
    part, c = own_place(C, CHANNELS)
    start = part * length
    end = tl.minimum(start + length, R)
    mean = tl.zeros((ROWS, CHANNELS), tl.float32)
    m2 = tl.zeros((ROWS, CHANNELS), tl.float32)
    for first in range(start, end, ROWS):
        r = first + tl.arange(0, ROWS)
        there = (r < end)[:, None] & (c < C)[None, :]
        value = tl.load(x + r.to(tl.int64)[:, None] * C + c[None, :], there, 0.0).to(tl.float32)
        share = 1.0 / ((first - start) // ROWS + 1)
        away = value - mean
        mean += tl.where(there, away * share, 0.0)
        m2 += tl.where(there, away * (value - mean), 0.0)
    count = tl.maximum((end - start - tl.arange(0, ROWS) + ROWS - 1) // ROWS, 0).to(tl.float32)[:, None]
    mean_C = tl.sum(mean * count, 0) / (end - start)
    apart = mean - mean_C[None, :]
    m2_C = tl.sum(m2 + count * apart * apart, 0)
    at = parts + part * 2 * C + c
    tl.store(at, mean_C, c < C)
    tl.store(at + C, m2_C, c < C)


@triton.jit
def keep(mean_C, sum_C, moments, running_mean, running_var, c, R, C, momentum, eps, TRACKED: tl.constexpr):
    """Store means and, of sums of squared deviations, 1 / sqrt(variance + eps); running statistics follow."""
    tl.store(moments + c, mean_C, c < C)
    tl.store(moments + C + c, 1 / tl.sqrt_rn(sum_C / R + eps), c < C)
    if TRACKED:
        old_mean, old_var = tl.load(running_mean + c, c < C), tl.load(running_var + c, c < C)
        tl.store(running_mean + c, old_mean + momentum * (mean_C - old_mean), c < C)
        tl.store(running_var + c, old_var + momentum * (sum_C / (R - 1) - old_var), c < C)


@triton.jit
def joined_moments(
    parts, moments, running_mean, running_var, R, C, length, S, momentum, eps,
    TRACKED: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / sqrt(variance + eps) of all rows, into moments [2, C]; running statistics follow (Chan et al.)."""
    c, s = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS), tl.arange(0, PARTS)
    there = (s < S)[:, None] & (c < C)[None, :]
    at = parts + s[:, None] * 2 * C + c[None, :]
    mean, m2 = tl.load(at, there, 0.0), tl.load(at + C, there, 0.0)
    count = tl.maximum(tl.minimum(length, R - s * length), 0).to(tl.float32)[:, None]
    mean_C = tl.sum(mean * count, 0) / R
    apart = mean - mean_C[None, :]
    sum_C = tl.sum(tl.where(there, m2 + count * apart * apart, 0.0), 0)
    keep(mean_C, sum_C, moments, running_mean, running_var, c, R, C, momentum, eps, TRACKED)


@triton.jit
def affine(gain, bias, c, C, AFFINE: tl.constexpr):
    """Gain and bias of channels; a missing gain is 1, a missing bias 0."""
    gain_C, bias_C = tl.full(c.shape, 1.0, tl.float32), tl.zeros(c.shape, tl.float32)
    if AFFINE:
        gain_C, bias_C = tl.load(gain + c, c < C, 0.0), tl.load(bias + c, c < C, 0.0)
    return gain_C, bias_C


@triton.jit
def of_channels(moments, gain, bias, c, C, AFFINE: tl.constexpr):
    """Mean and 1 / sqrt(variance + eps), gain and bias of channels."""
    mean, scale = tl.load(moments + c, c < C, 0.0), tl.load(moments + C + c, c < C, 0.0)
    gain_C, bias_C = affine(gain, bias, c, C, AFFINE)
    return mean[None, :], scale[None, :], gain_C[None, :], bias_C[None, :]


@triton.jit
def behind_relu(slope, away, scale, gain, bias, x):
    """The slope in front of a ReLU: 0 where the normalized number, rounded as x, is at most 0; nan passes it on."""
    y = (away * scale * gain + bias).to(x.dtype.element_ty).to(tl.float32)
    return tl.where(y <= 0, 0.0, slope)


@triton.jit
def given_to(away, scale, gain, bias, RELU: tl.constexpr):
    """Deviations from the mean, normalized, times gain, plus bias; behind a ReLU."""
    value = away * scale * gain + bias
    return tl.where(value <= 0, 0.0, value) if RELU else value  # nan stays


@triton.jit
def slope_of(slope, away, mean_g, product, scale, gain):
    """(g - mean(g) - (x - mean) mean(g (x - mean)) / (variance + eps)) gain / sqrt(variance + eps)."""
    return (slope - mean_g - away * product) * scale * gain


@triton.jit
def normalized(
    x, y, moments, gain, bias, R, C,
    AFFINE: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Maps with mean 0 and variance 1, times gain, plus bias; behind a ReLU."""
    r, c, there = own_tile(R, C, ROWS, CHANNELS)
    mean, scale, gain, bias = of_channels(moments, gain, bias, c, C, AFFINE)
    at = r.to(tl.int64)[:, None] * C + c[None, :]
    value = given_to(tl.load(x + at, there).to(tl.float32) - mean, scale, gain, bias, RELU)
    tl.store(y + at, value.to(y.dtype.element_ty), there)


@triton.jit
def part_sums(
    g, x, moments, gain, bias, parts, R, C, length,
    AFFINE: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums of g and of g (x - mean) over a part of ``length`` rows, into parts [S, 2, C]."""
    part, c = own_place(C, CHANNELS)
    start = part * length
    end = tl.minimum(start + length, R)
    mean, scale, gain, bias = of_channels(moments, gain, bias, c, C, AFFINE)
    sums = tl.zeros((ROWS, CHANNELS), tl.float32)
    products = tl.zeros((ROWS, CHANNELS), tl.float32)
    for first in range(start, end, ROWS):
        r = first + tl.arange(0, ROWS)
        there = (r < end)[:, None] & (c < C)[None, :]
        at = r.to(tl.int64)[:, None] * C + c[None, :]
        slope = tl.load(g + at, there, 0.0).to(tl.float32)
        away = tl.load(x + at, there, 0.0).to(tl.float32) - mean
        if RELU:
            slope = behind_relu(slope, away, scale, gain, bias, x)
        sums += slope
        products += tl.where(there, slope * away, 0.0)
    at = parts + part * 2 * C + c
    tl.store(at, tl.sum(sums, 0), c < C)
    tl.store(at + C, tl.sum(products, 0), c < C)


@triton.jit
def keep_slopes(slopes, sum_C, product_C, scale_C, c, C):
    """Store the gradients of gain and bias, from the sums of g and of g (x - mean)."""
    tl.store(slopes + c, product_C * scale_C, c < C)
    tl.store(slopes + C + c, sum_C, c < C)


@triton.jit
def joined_sums(parts, moments, sums, slopes, R, C, S, PARTS: tl.constexpr, CHANNELS: tl.constexpr):
    """Means of g and of g (x - mean) / (variance + eps), into sums [2, C]; gradients of gain and bias, into slopes."""
    c, s = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS), tl.arange(0, PARTS)
    there = (s < S)[:, None] & (c < C)[None, :]
    at = parts + s[:, None] * 2 * C + c[None, :]
    sum_C, product_C = tl.sum(tl.load(at, there, 0.0), 0), tl.sum(tl.load(at + C, there, 0.0), 0)
    scale = tl.load(moments + C + c, c < C, 0.0)
    tl.store(sums + c, sum_C / R, c < C)
    tl.store(sums + C + c, product_C * scale * scale / R, c < C)
    keep_slopes(slopes, sum_C, product_C, scale, c, C)


@triton.jit
def gradient(
    g, x, dx, moments, sums, gain, bias, R, C,
    AFFINE: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The slopes of x, into dx."""
    r, c, there = own_tile(R, C, ROWS, CHANNELS)
    mean, scale, gain, bias = of_channels(moments, gain, bias, c, C, AFFINE)
    mean_g, product = tl.load(sums + c, c < C, 0.0)[None, :], tl.load(sums + C + c, c < C, 0.0)[None, :]
    at = r.to(tl.int64)[:, None] * C + c[None, :]
    away = tl.load(x + at, there).to(tl.float32) - mean
    slope = tl.load(g + at, there).to(tl.float32)
    if RELU:
        slope = behind_relu(slope, away, scale, gain, bias, x)
    tl.store(dx + at, slope_of(slope, away, mean_g, product, scale, gain).to(dx.dtype.element_ty), there)


# Batches that the same power of two has room for share what is compiled.
@triton.jit(do_not_specialize=["R"])
def whole(
    x, y, moments, running_mean, running_var, gain, bias, R, C, momentum, eps,
    TRACKED: tl.constexpr, AFFINE: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """All of batch norm for some channels, whose R rows are in one tile; see ``joined_moments`` and ``normalized``."""
    r, c, there = own_tile(R, C, ROWS, CHANNELS)
    at = r[:, None] * C + c[None, :]
    value = tl.load(x + at, there, 0.0).to(tl.float32)
    mean_C = tl.sum(value, 0) / R
    away = tl.where(there, value - mean_C[None, :], 0.0)
    sum_C = tl.sum(away * away, 0)
    keep(mean_C, sum_C, moments, running_mean, running_var, c, R, C, momentum, eps, TRACKED)
    gain_C, bias_C = affine(gain, bias, c, C, AFFINE)
    scale_C = 1 / tl.sqrt_rn(sum_C / R + eps)
    value = given_to(away, scale_C[None, :], gain_C[None, :], bias_C[None, :], RELU)
    tl.store(y + at, value.to(y.dtype.element_ty), there)


@triton.jit(do_not_specialize=["R"])
def whole_gradient(
    g, x, dx, moments, slopes, gain, bias, R, C,
    AFFINE: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """All of its backward pass; see ``joined_sums`` and ``gradient``."""
    r, c, there = own_tile(R, C, ROWS, CHANNELS)
    mean, scale, gain, bias = of_channels(moments, gain, bias, c, C, AFFINE)
    at = r[:, None] * C + c[None, :]
    away = tl.where(there, tl.load(x + at, there, 0.0).to(tl.float32) - mean, 0.0)
    slope = tl.load(g + at, there, 0.0).to(tl.float32)
    if RELU:
        slope = behind_relu(slope, away, scale, gain, bias, x)
    sum_C, product_C = tl.sum(slope, 0), tl.sum(slope * away, 0)
    scale_C = tl.load(moments + C + c, c < C, 0.0)
    keep_slopes(slopes, sum_C, product_C, scale_C, c, C)
    mean_g, product = (sum_C / R)[None, :], (product_C * scale_C * scale_C / R)[None, :]
    tl.store(dx + at, slope_of(slope, away, mean_g, product, scale, gain).to(dx.dtype.element_ty), there)


@triton.jit
def largest(x, corner, c, there, C, W, K: tl.constexpr):
    """The largest of K x K numbers and its place: of equals the first, of nan the last, as by torch."""
    best = tl.load(x + corner * C + c[None, :], there).to(tl.float32)
    chosen = tl.zeros(best.shape, tl.int32)
    for place in tl.static_range(1, K * K):
        value = tl.load(x + (corner + place // K * W + place % K) * C + c[None, :], there).to(tl.float32)
        larger = (value > best) | (value != value)
        best, chosen = tl.where(larger, value, best), tl.where(larger, place, chosen)
    return best, chosen


@triton.jit
def corner_of(r, H, W, OUT_H, OUT_W, K: tl.constexpr):
    """The row of (B, H, W, C) where the window of a row of (B, OUT_H, OUT_W, C) begins."""
    return ((r // (OUT_H * OUT_W) * H + r // OUT_W % OUT_H * K) * W + r % OUT_W * K).to(tl.int64)[:, None]


@triton.jit
def pooled(x, y, R, C, H, W, OUT_H, OUT_W, K: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """The largest of K x K numbers, (B, H, W, C) -> R = B * OUT_H * OUT_W rows of C; nan if one is."""
    r, c, there = own_tile(R, C, ROWS, CHANNELS)
    best, _ = largest(x, corner_of(r, H, W, OUT_H, OUT_W, K), c, there, C, W, K)
    tl.store(y + r.to(tl.int64)[:, None] * C + c[None, :], best.to(y.dtype.element_ty), there)


@triton.jit
def pooled_gradient(
    g, x, dx, R, C, H, W, OUT_H, OUT_W, K: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradient of ``pooled``: all of it at the place of the largest number, 0 at the others of its window."""
    r, c, there = own_tile(R, C, ROWS, CHANNELS)
    corner = corner_of(r, H, W, OUT_H, OUT_W, K)
    _, chosen = largest(x, corner, c, there, C, W, K)
    slope = tl.load(g + r.to(tl.int64)[:, None] * C + c[None, :], there).to(tl.float32)
    for place in tl.static_range(K * K):
        own = tl.where(chosen == place, slope, 0.0).to(dx.dtype.element_ty)
        tl.store(dx + (corner + place // K * W + place % K) * C + c[None, :], own, there)
