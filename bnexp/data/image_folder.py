"""Images in folders: a folder a class, below ``train`` and below ``test`` or without these two."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnexp.data.base import DATA, Part, Raw, fault, reading
from bnexp.data.holdout import ADVICE, Holdout, divided

log = logging.getLogger(__name__)

# What the names of images end in, in small or capital letters.
_ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Whatever a file's name says, only these are decoded: Pillow knows others that are programs, such as PostScript.
_FORMATS = ("BMP", "JPEG", "PPM", "PNG", "TIFF", "WEBP")
# Pillow's modes of 16-bit grey, and the formats of which it reads 16-bit grey into mode I.
_WORDS, _WIDENED = ("I;16", "I;16B", "I;16L", "I;16N"), ("PNG", "PPM")


@DATA.register("image_folder")
def image_folder(*, path: str | None, holdout: Holdout) -> Raw:
    """Images <path>/train/<class>/* and <path>/test/<class>/*, read as RGB [3, H, W]; classes in the order of names.

    With ``holdout``, images <path>/<class>/*, of which it sets a share apart for testing (``divided``). Names that
    begin with a dot are skipped. Images are turned as their EXIF data say.

    Raises:
        ValueError: a folder is missing or has no image, the classes differ, or an image does not decode or loses its
            content in RGB.
    """
    if path is None:
        raise ValueError("data.path=null: say where the images are, in <path>/train/<class> and <path>/test/<class>")
    origin, base = f"data.path={path}", Path(os.path.expanduser(path))
    if not base.is_dir():
        raise fault(origin, "there is no such folder")
    parts = [part for part in ("train", "test") if os.path.isdir(base / part)]
    if holdout is not None:
        if parts:
            raise ValueError(f"data.holdout={holdout}: {path} has a folder {parts[0]}; data.holdout=null")
        classes = _listed(origin, base, ".")
        parts_of_all = divided(origin, _part(origin, base, classes, "the folder"), holdout, list(classes))
        return Raw(origin, *parts_of_all, len(classes))
    if not parts and _has_folders(base):
        raise fault(origin, f"has no folders train and test; {ADVICE}, if they lie in <path>/<class>/")
    train, test = _listed(origin, base, "train"), _listed(origin, base, "test")
    for name in sorted(train.keys() ^ test.keys()):
        here, there = ("train", "test") if name in train else ("test", "train")
        raise fault(origin, f"class {name} is in {here} but not in {there}; both need the same class folders")
    return Raw(origin, _part(origin, base, train, "train"), _part(origin, base, test, "test"), len(train))


def _has_folders(base: Path) -> bool:
    return os.path.isdir(base) and any(each.is_dir() and not each.name.startswith(".") for each in base.iterdir())


def _listed(origin: str, base: Path, part: str) -> dict[str, list[str]]:
    """Class -> paths of its images below ``base``, both in the order of names; says which files are left out."""
    if not os.path.isdir(base / part):
        raise fault(origin, f"has no folder {part}; images are looked for in <path>/{part}/<class>/")
    with reading(origin, f"folder {part}"):
        names = [name for name in sorted(os.listdir(base / part)) if not name.startswith(".")]
    found = {name: _files(origin, base, f"{part}/{name}") for name in names if os.path.isdir(base / part / name)}
    images = {name: [file for file in files if file.lower().endswith(_ENDINGS)] for name, files in found.items()}
    endings = ", ".join(_ENDINGS)
    if not images:
        raise fault(origin, f"folder {part} has no class folder; images are looked for in <path>/{part}/<class>/")
    for name, files in images.items():
        if not files:
            raise fault(origin, f"class {name} has no image in {part}; the names of images end in {endings}")
    beside = [f"{part}/{name}" for name in names if name not in found]
    others = [file for name, files in found.items() for file in files if file not in set(images[name])] + beside
    if others:
        what = "images lie in class folders, and their names end in"
        log.info("%s: %d files of %s are left out (%s): %s %s", origin, len(others), part, others[0], what, endings)
    return images


def _files(origin: str, base: Path, folder: str) -> list[str]:
    """Paths below ``base`` of all files in a folder and the folders in it, but for hidden ones.

    Raises:
        ValueError: a link leads back to a folder that it lies in.
    """
    walked = []
    for root, folders, names in os.walk(base / folder, followlinks=True):
        for link in (Path(root, name) for name in folders):
            if link.is_symlink() and Path(root).resolve().is_relative_to(link.resolve()):
                raise fault(origin, f"{link.relative_to(base)} is a link to a folder that it lies in; remove it")
        walked.append((root, folders, names))
    walked.sort()
    paths = [Path(root, name).relative_to(base) for root, _, names in walked for name in sorted(names)]
    return [str(path) for path in paths if not any(word.startswith(".") for word in path.parts)]


def _part(origin: str, base: Path, classes: dict[str, list[str]], name: str) -> Part:
    images, digest = [], hashlib.blake2b()
    for file in (file for files in classes.values() for file in files):
        with reading(origin, file):
            if not (base / file).is_file():
                raise ValueError("not a regular file")
            content = (base / file).read_bytes()
            images.append(_decoded(content))
        digest.update(hashlib.blake2b(content).digest())
    if len({image.dtype for image in images}) > 1:
        images = [image / 255 if image.dtype == torch.uint8 else image for image in images]
    even = len({image.shape for image in images}) == 1
    labels = [label for label, files in enumerate(classes.values()) for _ in files]
    return Part(torch.stack(images) if even else images, torch.tensor(labels), name, name, digest.digest())


def _decoded(content: bytes) -> Tensor:
    """The image in a file, [3, H, W], uint8; or float32 in [0, 1] where it has 16 bits of grey.

    Raises:
        Exception: Pillow's, or a ValueError: it does not decode, or would lose its content.
    """
    from PIL import (
        Image,
        ImageOps,
        UnidentifiedImageError,
    )  # takes a tenth of a second, and a wrong path is to be told at once

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow remarks on sizes, palettes and metadata; what it can decode is fine
        try:
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
        except UnidentifiedImageError:
            raise ValueError(f"no image of a kind that is read: {', '.join(_FORMATS)}") from None
        wide = image.mode in _WORDS or (image.mode == "I" and image.format in _WIDENED)
        upright = ImageOps.exif_transpose(image)
        if wide:
            return torch.from_numpy(np.asarray(upright).astype(np.float32) / 65535).expand(3, -1, -1)
        _require_content(upright)
        return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1)


def _require_content(image: Any) -> None:
    """Refuse a Pillow image that would lose its content as 8-bit RGB.

    Raises:
        ValueError: its pixels are wider, or differ in how transparent they are.
    """
    if image.mode in ("I", "F"):
        raise ValueError("32 bits a pixel, of a range that it does not say; save it with 8 or 16 bits, or use data=npz")
    if image.has_transparency_data:
        least, most = image.convert("RGBA").getchannel("A").getextrema()
        if least != most:
            raise ValueError(
                "partly transparent, over a background that it does not say; save it on one, without alpha"
            )
