"""Images in folders: one folder for each class, below ``train`` and below ``test``."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnexp.data.base import DATA, Part, Raw, fault, reading


@DATA.register("image_folder")
def image_folder(*, path: str | None) -> Raw:
    """Images <path>/train/<class>/* and <path>/test/<class>/*, read as RGB [3, H, W]; classes in the order of names.

    Raises:
        ValueError: a folder is missing or has no image, the classes differ, or an image does not decode.
    """
    if path is None:
        raise ValueError("data.path=null: say where the images are, in <path>/train/<class> and <path>/test/<class>")
    origin, base = f"data.path={path}", Path(os.path.expanduser(path))
    train, test = _listed(origin, base, "train"), _listed(origin, base, "test")
    for name in sorted(set(train.classes) ^ set(test.classes)):
        here, there = ("train", "test") if name in train.classes else ("test", "train")
        raise fault(origin, f"class {name} is in {here} but not in {there}; both need the same class folders")
    classes = len(train.classes)
    return Raw(origin, _part(origin, base, train, "train"), _part(origin, base, test, "test"), classes)


def _listed(origin: str, base: Path, part: str) -> Any:
    """List the images and classes of a part by torchvision's class; an empty class folder raises."""
    from torchvision.datasets import ImageFolder

    if not os.path.isdir(base / part):
        raise fault(origin, f"has no folder {part}; images are looked for in <path>/{part}/<class>/")
    with reading(origin, f"folder {part}"):
        return ImageFolder(base / part)


def _part(origin: str, base: Path, listed: Any, name: str) -> Part:
    images = [_decoded(origin, base, path) for path, _ in listed.samples]
    even = len({image.shape for image in images}) == 1
    return Part(torch.stack(images) if even else images, torch.tensor(listed.targets), name, name)


def _decoded(origin: str, base: Path, path: str) -> Tensor:
    """One image, [3, H, W] uint8."""
    from torchvision.datasets.folder import pil_loader
    from torchvision.transforms.functional import pil_to_tensor

    with reading(origin, str(Path(path).relative_to(base))), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow remarks on sizes, palettes and metadata; what it can decode is fine
        image: Tensor = pil_to_tensor(pil_loader(path))
    return image
