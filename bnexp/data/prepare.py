"""From a source's arrays to standardized tensors: the choice of images, the pixels, the checks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bnexp.data.augmentation import Augmentation
from bnexp.data.base import DATA, Data, Part, Preparation, Raw, Split, fault
from bnexp.data.fingerprint import fingerprint
from bnexp.data.members import choose
from bnexp.data.whitening import whitening
from bnexp.memory import require as require_memory
from bnexp.randomness import generator, torch_seeded

log = logging.getLogger(__name__)

# By default the split belongs to the data set, not to a run: every seed and every arm of a comparison has the same
# images. The test images always do: then accuracies of different seeds are measured on the same images.
_SPLIT_SEED = 0
# Numbers a step of the statistics: their float64 copies, 2 MB, stay in the cache, which makes it 5 times as fast.
_CHUNK = 2**18


def load(options: Mapping[str, Any], device: torch.device | str = "cpu") -> Data:
    """Read and prepare the data set of a config's ``data`` group.

    Args:
        options: ``{name: mnist, root: ..., validation: 0.1, ...}``: all options of the source and of ``Preparation``.
        device: where the data are going to be; the numbers do not depend on it.

    Raises:
        ValueError: an option is unknown, missing or out of range; a file is missing or damaged; images and labels do
            not fit together; the options ask for more images than there are.
    """
    bound = DATA.bind(options)
    with torch_seeded(0, "data"):  # a source of the user's may draw
        raw = bound()
    if not isinstance(raw, Raw):
        raise ValueError(f"data={bound.name}: its builder returns a {type(raw).__name__}; expected a bnexp.data.Raw")
    return prepare(bound.name, raw, bound.shared, device)


def prepare(name: str, raw: Raw, how: Preparation, device: torch.device | str = "cpu") -> Data:
    """Choose the images, then resize, binarize, standardize and whiten them.

    The choice goes in this order: ``classes`` and ``train_classes``; ``validation`` images; ``train_limit`` of the
    images that are left; ``labels_per_class`` of these. It is the same for every seed, and all statistics are taken
    over the chosen training images. With ``split_seed=seed``, ``seen_by`` chooses after the classes: until then
    ``train`` has all their images, and the statistics are theirs, so that all seeds see equal pixels. Images of bytes
    go to ``device`` as bytes, a quarter of the numbers that they become there.

    Raises:
        ValueError: the data are inconsistent, or too few for what is asked.
    """
    _check_numbers(raw)
    _check_labels(raw)
    classes = _classes(raw, how)
    train_rows, validation_rows = _train_rows(raw, how, classes)
    test_rows = _test_rows(raw, how, classes)
    _require_memory(raw, len(train_rows) + len(validation_rows) + len(test_rows), how.size)
    train = _samples(raw, raw.train, train_rows, how)
    validation = _samples(raw, raw.train, validation_rows, how) if len(validation_rows) else None
    test = _samples(raw, raw.test, test_rows, how)
    _check_test(raw, train, test)
    _check_content(raw, train, how)
    mean, std = moments(train.x) if how.standardize else _identity(train.x)
    augmentation = Augmentation(how.flip, how.crop, how.cutout)
    scale = mean.tolist(), std.tolist()
    data = Data(name, len(classes), train, validation, test, *scale, augmentation, fingerprint(raw))
    there = device if how.whiten == "none" else "cpu"  # sums of products have other last bits on another device
    data = data.mapped(lambda split: Split(_standardized(split.x, mean, std, there), split.y))
    whiten = whitening(how.whiten, data.train.x, how.whiten_eps)
    if whiten is not None:
        data = data.mapped(lambda split: Split(whiten(split.x), split.y))
    _check_augmentation(data.train, how)
    chooser = partial(choose, how=how) if how.split_seed == "seed" else None
    return replace(data.to(device), order=how.order, label_noise=how.label_noise, choose=chooser)


def new_images(x: Tensor, data: Data, options: Mapping[str, Any]) -> Tensor:
    """Images that are not part of a data set, prepared as its training images were.

    Args:
        x: pixels from 0 to 255, uint8, [N, C, H, W] or [C, H, W].
        data: the data set.
        options: the config's ``data`` group, with which it was loaded.

    Returns:
        [N, C, H, W], float32, on the device of ``data``.

    Raises:
        ValueError: the images have another shape than the training images, or these are whitened.
    """
    if options["whiten"] != "none":
        raise ValueError(f"data.whiten={options['whiten']}: raw images cannot be whitened; take them from run.data()")
    x = x.unsqueeze(0) if x.ndim == len(data.shape) else x
    x = _binarized(_pixels(x, options["size"]), options["binarize"])
    if x.shape[1:] != data.shape:
        raise ValueError(f"images of shape {tuple(x.shape[1:])}: this run's have the shape {data.shape}")
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (data.mean, data.std))
    return _standardized(x, mean, std, data.train.x.device)


def _require_memory(raw: Raw, images: int, size: int | None) -> None:
    """Refuse to resize images to more numbers than there is memory for."""
    if size is not None:
        require_memory(f"data.size={size}", 4 * images * raw.train.x[0].shape[0] * size * size, f"{images} such images")


def _classes(raw: Raw, how: Preparation) -> Sequence[int]:
    """The source's labels of the classes to keep; a class's new label is its index in this list.

    Raises:
        ValueError: there is no such class, one is named twice, or there are fewer than two.
    """
    if raw.classes < 2:
        raise fault(raw.origin, "its labels name one class; expected two or more")
    if how.classes is None:
        return range(raw.classes)
    unknown = [label for label in how.classes if label >= raw.classes]
    if unknown:
        raise ValueError(f"data.classes={how.classes}: no class {unknown[0]}; allowed are 0 to {raw.classes - 1}")
    if len(set(how.classes)) < max(len(how.classes), 2):
        raise ValueError(f"data.classes={how.classes}: expected two classes or more, each once")
    return how.classes


def _train_classes(how: Preparation, classes: Sequence[int]) -> Sequence[int]:
    """The source's labels of the classes to train.

    Raises:
        ValueError: one is not among the kept classes, or none is given.
    """
    if how.train_classes is None:
        return classes
    unknown = [label for label in how.train_classes if label not in classes]
    if unknown or not how.train_classes:
        wrong = f"{unknown[0]} is not a class of this run" if unknown else "no class"
        raise ValueError(f"data.train_classes={how.train_classes}: {wrong}; allowed are {', '.join(map(str, classes))}")
    return how.train_classes


def _rows_of(raw: Raw, part: Part, classes: Sequence[int]) -> Tensor:
    """Indices of the samples of these classes, ascending.

    Raises:
        ValueError: there is none.
    """
    rows = torch.isin(part.y, torch.tensor(classes)).nonzero().flatten()
    if not len(rows):
        raise fault(raw.origin, f"{part.labels} has none of data.classes={list(classes)}")
    return rows


def _train_rows(raw: Raw, how: Preparation, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Indices of the training and the validation images, ascending; with ``split_seed=seed`` of all images and none.

    Raises:
        ValueError: there are fewer images than asked for, or ``whiten`` has no fixed images to take statistics over.
    """
    kept = _rows_of(raw, raw.train, _train_classes(how, classes))
    if how.split_seed == "fixed":
        train, validation = choose(_labels(raw.train.y[kept], how.classes), _SPLIT_SEED, how)
        return kept[train], kept[validation]
    if how.whiten != "none":
        raise ValueError(f"data.whiten={how.whiten}: needs the same training images in all runs; data.split_seed=fixed")
    if how.standardize:
        what = "pixels are scaled by the mean and standard deviation of all"
        log.info("data.split_seed=seed: %s %d training images, also those not used by a run", what, len(kept))
    return kept, kept[:0]


def _test_rows(raw: Raw, how: Preparation, classes: Sequence[int]) -> Tensor:
    """Indices of the test images, ascending, chosen at random: the halves of MNIST's test set are not equally hard."""
    kept = _rows_of(raw, raw.test, classes)
    limit = how.test_limit or len(kept)
    if limit > len(kept):
        raise ValueError(f"data.test_limit={limit}: there are {len(kept)} test images")
    return kept[torch.randperm(len(kept), generator=generator(_SPLIT_SEED, "test"))[:limit]].sort().values


def _samples(raw: Raw, part: Part, rows: Tensor, how: Preparation) -> Split:
    """A copy of the chosen samples: pixels in [0, 1], resized and binarized; labels 0 to K - 1.

    Images of bytes that are neither resized nor binarized stay bytes here; ``_standardized`` makes numbers of them.
    """
    if not isinstance(part.x, Tensor):
        x = _binarized(_uneven(raw, part, rows, how.size), how.binarize)
    elif part.x.dtype == torch.uint8 and how.size is None and how.binarize is None:
        x = part.x[rows]
    else:
        x = _binarized(_pixels(part.x[rows], how.size), how.binarize)
    return Split(x, _labels(part.y[rows], how.classes))


def _binarized(x: Tensor, threshold: float | None) -> Tensor:
    return x if threshold is None else (x > threshold).float()


def _labels(y: Tensor, classes: Sequence[int] | None) -> Tensor:
    """The index of each label among the kept classes."""
    return y if classes is None else (y.unsqueeze(1) == torch.tensor(classes)).nonzero()[:, 1]


def _pixels(x: Tensor, size: int | None) -> Tensor:
    """Convert to float32, map 0..255 to [0, 1], and resize images [N, C, H, W] to ``size``."""
    x = x / 255 if x.dtype == torch.uint8 else x.float()
    if size is None:
        return x
    if x.ndim != 4:
        raise ValueError(f"data.size={size}: vectors of {x.shape[1]} features cannot be resized; it must be null")
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=False)


def _uneven(raw: Raw, part: Part, rows: Tensor, size: int | None) -> Tensor:
    """Images [C, H, W] of differing H and W, resized one by one into [N, C, size, size]."""
    if size is None:
        raise ValueError(f"data.size=null: the images of {part.images} ({raw.origin}) differ in size; give one size")
    return torch.cat([_pixels(part.x[row].unsqueeze(0), size) for row in rows.tolist()])


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) standard deviation over all axes but the second, in float64: two passes, or by counting bytes.

    Args:
        x: [N, C, H, W] or [N, F]; bytes stand for a 255th of their value.

    Returns:
        Two float64 tensors [C] or [F]; the standard deviation of a constant channel is given as 1.
    """
    mean, variance = _counted(x) if x.dtype == torch.uint8 else _summed(x)
    # Exactly 0 for a constant channel: fewer than 2^29 equal float32 values add up in float64 without rounding.
    return mean, variance.sqrt().masked_fill(variance == 0, 1.0)


def _summed(x: Tensor) -> tuple[Tensor, Tensor]:
    axes = [axis for axis in range(x.ndim) if axis != 1]
    count = x.numel() // x.shape[1]
    zero = torch.zeros(x.shape[1], dtype=torch.float64)
    mean = sum((part.double().sum(axes) for part in _chunks(x)), zero) / count
    centre = _per_channel(mean, x)
    variance = sum(((part.double() - centre).square().sum(axes) for part in _chunks(x)), zero) / count
    return mean, variance


def _counted(x: Tensor) -> tuple[Tensor, Tensor]:
    pixels = (torch.arange(256) / 255).double()  # as numbers in float32, which they become
    counts = torch.stack([torch.bincount(values.flatten(), minlength=256) for values in x.unbind(1)]).double()
    count = x.numel() // x.shape[1]
    mean = counts @ pixels / count
    return mean, (counts * (pixels - mean.unsqueeze(1)).square()).sum(1) / count


def _chunks(x: Tensor) -> Iterator[Tensor]:
    images = max(1, _CHUNK // x[0].numel())
    return (x[start : start + images] for start in range(0, len(x), images))


def _identity(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(x.shape[1], dtype=torch.float64), torch.ones(x.shape[1], dtype=torch.float64)


def _standardized(x: Tensor, mean: Tensor, std: Tensor, device: torch.device | str) -> Tensor:
    """(x - mean) / std on a device: in place, as a data set may fill half the memory, or in one pass over bytes."""
    x = x.to(device)
    centre, scale = (_per_channel(values, x).to(x.device, torch.float32) for values in (mean, std))
    if x.dtype != torch.uint8:
        return x.sub_(centre).div_(scale)
    pixels = torch.empty(x.shape, device=x.device)
    most = torch.tensor(255.0, device=x.device)  # by a plain number CUDA multiplies with its rounded inverse
    for part, own in zip(_chunks(pixels), _chunks(x), strict=True):
        torch.div(own, most, out=part).sub_(centre).div_(scale)
    return pixels


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *[1] * (x.ndim - 2))


def _check_numbers(raw: Raw) -> None:
    for part in (raw.train, raw.test):
        if isinstance(part.x, Tensor) and part.x.is_floating_point() and not part.x.isfinite().all():
            raise fault(raw.origin, f"{part.images} has a value that is not finite in float32")


def _check_labels(raw: Raw) -> None:
    for part in (raw.train, raw.test):
        if len(part.x) != len(part.y):
            raise fault(raw.origin, f"{part.images} has {len(part.x)} images, but {part.labels} {len(part.y)} labels")
        if not len(part.y):
            raise fault(raw.origin, f"{part.images} has no image")
        if part.y.dtype != torch.int64:
            raise fault(raw.origin, f"{part.labels} is of {part.y.dtype}; labels are int64")
        outside = part.y[(part.y < 0) | (part.y >= raw.classes)]
        if len(outside):
            raise fault(raw.origin, f"{part.labels} has label {outside[0]}; labels are 0 to {raw.classes - 1}")
    present = sorted(set(raw.train.y.tolist()))
    if len(present) < raw.classes:
        absent = next((i for i, label in enumerate(present) if i != label), len(present))
        raise fault(raw.origin, f"{raw.train.labels} lacks label {absent}; 0 to {raw.classes - 1} must all occur")


def _check_test(raw: Raw, train: Split, test: Split) -> None:
    shape, other = tuple(train.x.shape[1:]), tuple(test.x.shape[1:])
    if shape != other:
        raise fault(raw.origin, f"{raw.train.images} has samples {shape}, but {raw.test.images} has {other}")
    if torch.equal(raw.train.y, raw.test.y) and _same(raw.train.x, raw.test.x):
        raise fault(raw.origin, f"{raw.test.images} holds the training images of {raw.train.images} again")


def _check_content(raw: Raw, train: Split, how: Preparation) -> None:
    """Refuse training images that are all equal, as of pictures whose content got lost; stops at the first other."""
    if len(train) > 1 and all(torch.equal(train.x[0], train.x[other]) for other in range(1, len(train))):
        binarized = "" if how.binarize is None else f" (with data.binarize={how.binarize})"
        raise fault(raw.origin, f"the {len(train)} images of {raw.train.images} are all equal{binarized}")


def _check_augmentation(train: Split, how: Preparation) -> None:
    shape = train.x.shape[1:]
    asked = {name: value for name in ("flip", "crop", "cutout") if (value := getattr(how, name))}
    if asked and len(shape) != 3:
        option, value = next(iter(asked.items()))
        raise ValueError(f"data.{option}={str(value).lower()}: is for images, not for vectors of {shape[0]} features")
    for option in ("crop", "cutout"):
        if asked.get(option, 0) >= min(shape[1:], default=1):
            size = f"the image size {shape[1]}x{shape[2]}"
            raise ValueError(f"data.{option}={asked[option]}: too large; allowed is less than {size}")


def _same(x: Tensor | list[Tensor], other: Tensor | list[Tensor]) -> bool:
    return isinstance(x, Tensor) and isinstance(other, Tensor) and torch.equal(x, other)
