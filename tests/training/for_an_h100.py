"""Compile the kernels of ``triton_kernels`` for an H100, which needs none; print how each reads and writes maps.

A process of its own: the tests have Triton's interpreter, which is chosen when Triton is imported.
"""

from __future__ import annotations

import json

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bnexp.training import short_maps, triton_kernels

MAP, VECTOR, COUNT, NUMBER = "*bf16", "*fp32", "i32", "fp32"
TYPES = {"x": MAP, "y": MAP, "g": MAP, "dx": MAP, "momentum": NUMBER, "eps": NUMBER}
VECTORS = ("parts", "moments", "running_mean", "running_var", "gain", "bias", "sums", "slopes")
TILES = {
    "part_moments": short_maps._TILE,
    "joined_moments": {"TRACKED": True, **short_maps._JOIN},
    "normalized": {"AFFINE": True, **short_maps._TILE},
    "part_sums": short_maps._TILE,
    "joined_sums": short_maps._JOIN,
    "gradient": {"AFFINE": True, **short_maps._TILE},
    "pooled": {"K": 2, **short_maps._POOLED},
    "pooled_gradient": {"K": 2, **short_maps._POOLED},
}


def assembled(name: str) -> str:
    """The PTX of a kernel, for pointers and channels that are multiples of 16."""
    kernel, tile = getattr(triton_kernels, name), TILES[name]
    types = {each: TYPES.get(each, VECTOR if each in VECTORS else COUNT) for each in kernel.arg_names}
    types |= dict.fromkeys(tile, "constexpr")
    places = {each: (place,) for place, each in enumerate(kernel.arg_names)}
    even = {places[each]: [["tt.divisibility", 16]] for each, kind in types.items() if kind[0] == "*" or each == "C"}
    source = ASTSource(kernel, types, {places[each]: value for each, value in tile.items()}, even)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]


def words(ptx: str, operation: str) -> list[str]:
    """The widths of all accesses of a kind, ``v4.b32`` for 16 bytes."""
    return sorted({line.split(operation + ".")[1].split()[0] for line in ptx.splitlines() if operation + "." in line})


if __name__ == "__main__":
    found = {name: assembled(name) for name in TILES}
    print(json.dumps({name: [words(ptx, "ld.global"), words(ptx, "st.global")] for name, ptx in found.items()}))
