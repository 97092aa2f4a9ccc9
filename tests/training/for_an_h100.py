"""Compile the kernels in Triton for an H100, which needs none; print how they read, write and multiply maps.

A process of its own: the tests have Triton's interpreter, which is chosen when Triton is imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bnexp.training.kernels import (
    own_batch_norm,
    own_convolution,
    own_updates,
    short_maps,
    triton_convolutions,
    triton_maps,
    triton_updates,
)

MAP, VECTOR, COUNT, NUMBER = "*bf16", "*fp32", "i32", "fp32"
TYPES = {"x": MAP, "y": MAP, "g": MAP, "dx": MAP, "momentum": NUMBER, "eps": NUMBER}
VECTORS = ("parts", "moments", "running_mean", "running_var", "gain", "bias", "sums", "slopes")
TILES = {
    "part_moments": own_batch_norm._TILE,
    "joined_moments": {"TRACKED": True, **own_batch_norm._JOIN},
    "normalized": {"AFFINE": True, "RELU": True, **own_batch_norm._TILE},
    "part_sums": {"AFFINE": True, "RELU": True, **own_batch_norm._TILE},
    "joined_sums": own_batch_norm._JOIN,
    "gradient": {"AFFINE": True, "RELU": True, **own_batch_norm._TILE},
    "whole": {"TRACKED": True, "AFFINE": True, "RELU": True, **own_batch_norm._tile(64)},
    "whole_gradient": {"AFFINE": True, "RELU": True, **own_batch_norm._tile(64)},
    "pooled": {"K": 2, **short_maps._POOLED},
    "pooled_gradient": {"K": 2, **short_maps._POOLED},
}


# The layers of LeNet, the way back through the second one, and the most outputs that a layer has: channels, side,
# padding, outputs, and the maps' format.
CONVOLUTIONS = {
    "first maps without TF32": ("convolved", (1, 28, 2, 6), "*fp32"),
    "second maps": ("convolved", (6, 14, 0, 16), "*bf16"),
    "back through the second": ("convolved", (16, 10, 4, 6), "*fp32"),
    "first slopes": ("part_slopes", (1, 28, 2, 6), "*bf16"),
    "back through 64 outputs": ("convolved", (64, 10, 4, 8), "*fp32"),
    "slopes of 64 outputs": ("part_slopes", (8, 14, 0, 64), "*fp32"),
}


def compiled(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], even: Collection[str], on: int = 90, **how: int
) -> Any:
    """A kernel for a GPU of a generation, for pointers and chosen numbers that are multiples of 16."""
    types = types | dict.fromkeys(constants, "constexpr")
    places = {each: (place,) for place, each in enumerate(kernel.arg_names)}
    even = [each for each, kind in types.items() if kind[0] == "*" or each in even]
    divisible = {places[each]: [["tt.divisibility", 16]] for each in even}
    source = ASTSource(kernel, types, {places[each]: value for each, value in constants.items()}, divisible)
    return triton.compile(source, target=GPUTarget("cuda", on, 32), options=how)


def assembled(name: str) -> str:
    """The PTX of a kernel of ``triton_maps``."""
    kernel = getattr(triton_maps, name)
    types = {each: TYPES.get(each, VECTOR if each in VECTORS else COUNT) for each in kernel.arg_names}
    return compiled(kernel, types, TILES[name], ["C"]).asm["ptx"]


def update(name: str) -> str:
    """The PTX of a kernel of ``triton_updates``, with all that it can do."""
    kernel = getattr(triton_updates, name)
    switches = {each: True for each in kernel.arg_names if each.isupper() and each not in ("P", "BLOCK")}
    (block, how) = own_updates._BLOCK["BLOCK"], {"num_warps": own_updates._BLOCK["num_warps"]}
    types = {each: COUNT if each == "P" else VECTOR for each in kernel.arg_names}
    return compiled(kernel, types, {**switches, "BLOCK": block}, ["P"], **how).asm["ptx"]


def convolution(name: str, on: int = 90) -> Any:
    """A kernel of ``triton_convolutions``."""
    function, (C, side, padding, out), kind = CONVOLUTIONS[name]
    kernel, maps = getattr(triton_convolutions, function), function == "convolved"
    types = {each: {"x": kind, "g": kind, "y": kind}.get(each, COUNT) for each in kernel.arg_names}
    types |= dict.fromkeys(["weight", "bias"] if maps else ["parts"], VECTOR)
    tile = own_convolution._tile(C, out, own_convolution._MAPS if maps else own_convolution._SLOPES)
    how = {each: tile.pop(each) for each in ("num_warps", "num_stages")}
    constants = {"C": C, "H": side, "W": side, "K": 5, "PADDING": padding, "OUT": out, **tile}
    even = ["M", "x_n", "x_m"] + ["length"] * (not maps)
    constants["TF32"] = kind == "*fp32" and "without" not in name
    constants |= {"FLIPPED": side == 10, "BIASED": False} if maps else {}
    return compiled(kernel, types, constants, even, on, **how)


def products(name: str) -> list[str]:
    """The formats that matrix units multiply in a kernel of ``triton_convolutions``."""
    ptx = convolution(name).asm["ptx"]
    return sorted(set(re.findall(r"(?:mma\.sync|wgmma\.mma_async)\S*\.f32\.(\w+)", ptx)))


def words(ptx: str, operation: str) -> list[str]:
    """The widths of all accesses of a kind, ``v4.b32`` for 16 bytes."""
    return sorted({line.split(operation + ".")[1].split()[0] for line in ptx.splitlines() if operation + "." in line})


if __name__ == "__main__":
    assemblies = {name: assembled(name) for name in TILES}
    accesses = {name: [words(ptx, "ld.global"), words(ptx, "st.global")] for name, ptx in assemblies.items()}
    updates = {name: update(name) for name in ("sgd", "adam")}
    of_updates = {name: [words(ptx, "ld.global"), words(ptx, "st.global")] for name, ptx in updates.items()}
    shared = {name: convolution(name, 86).metadata.shared for name in CONVOLUTIONS if "64" in name}
    multiplied = {name: products(name) for name in CONVOLUTIONS}
    kernels = {name: getattr(triton_convolutions, name) for name in ("convolved", "part_slopes")}
    any_number = {name: [each.name for each in k.params if each.do_not_specialize] for name, k in kernels.items()}
    found = {
        "accesses": accesses,
        "updates": of_updates,
        "products": multiplied,
        "shared memory": shared,
        "any number": any_number,
    }
    print(json.dumps(found))
