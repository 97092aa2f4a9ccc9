"""What all sources share: the registry, the types that a source returns and training gets, and errors for faults."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from bnexp.config.checks import Fraction, PositiveFloat, Range
from bnexp.config.registry import Registry
from bnexp.data.augmentation import Augmentation
from bnexp.randomness import generator

Whiten = Literal["none", "centre", "scale", "rotate", "pca", "zca"]
Order = Literal["shuffled", "sorted"]
# (labels of the training images [P], a run's seed) -> indices of its training and of its validation images.
Chooser = Callable[[Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Preparation:
    """The options that every source has.

    Attributes:
        classes: the classes to keep in all splits; the first listed becomes label 0; None keeps all, with their labels.
        train_classes: the kept classes that training and validation images belong to; labels, head and test images are
            still those of all kept classes. None for all.
        validation: the fraction of the training images that is set apart; 0 for none.
        train_limit: how many of the remaining training images to use; None for all.
        test_limit: how many of the test images to use, a fixed mix of all classes; None for all.
        labels_per_class: how many of the remaining training images to use of each class; None for all.
        standardize: subtract the training mean and divide by the training standard deviation, channel by channel
            (feature by feature for vectors).
        whiten: the transformation, after ``standardize``, of an image taken as one vector; see ``Whitening``.
        whiten_eps: added to the variances that ``whiten`` divides by.
        binarize: pixels in [0, 1] above this threshold become 1, the others 0; None leaves them.
        size: height and width to resize to (bilinear, no antialiasing), pixels; None keeps the size.
        flip: mirror a training image left to right with probability 1/2.
        crop: pad training images by this many zero pixels and cut the original size out at random; 0 for none.
        cutout: side of a square that is set to zero at a random place in every training image; 0 for none.
        order: of the training images in an epoch: ``shuffled``, or ``sorted`` by class and shuffled within each class,
            so that most batches hold one class.
        label_noise: the share of the training labels that become another class, see ``noisy``; drawn by the run's seed.
        split_seed: what ``validation``, ``train_limit`` and ``labels_per_class`` choose images by: ``fixed``, the same
            images for every run; ``seed``, drawn anew for each seed of a run. Test images are always the same.
    """

    classes: list[Annotated[int, Range(least=0)]] | None
    train_classes: list[Annotated[int, Range(least=0)]] | None
    validation: Fraction
    train_limit: Annotated[int | None, Range(least=1)]
    test_limit: Annotated[int | None, Range(least=1)]
    labels_per_class: Annotated[int | None, Range(least=1)]
    standardize: bool
    whiten: Whiten
    whiten_eps: PositiveFloat
    binarize: Annotated[float | None, Range(above=0, below=1)]
    size: Annotated[int | None, Range(least=1, most=16_384)]
    flip: bool
    crop: Annotated[int, Range(least=0)]
    cutout: Annotated[int, Range(least=0)]
    order: Order
    label_noise: Annotated[float, Range(least=0, most=1)]
    split_seed: Literal["fixed", "seed"]


# A builder takes its own options only, as required keyword-only parameters, and returns ``Raw``.
DATA = Registry("data", shared=Preparation)


@dataclass(frozen=True, eq=False)
class Part:
    """The training or the test images as a source found them.

    Attributes:
        x: images [N, C, H, W], or vectors [N, F]; uint8 in 0..255, or floats. A list of [C, H, W] where images
            differ in size.
        y: labels [N], int64.
        images: where ``x`` came from (a file, a key), for messages.
        labels: where ``y`` came from.
        digest: of the files of ``x``, where another version of their reader might make other last bits of them.
    """

    x: Tensor | list[Tensor]
    y: Tensor
    images: str
    labels: str
    digest: bytes | None = None


@dataclass(frozen=True, eq=False)
class Raw:
    """A data set as a source found it.

    Attributes:
        origin: the setting that names the source, for example ``data.root=/data``; messages begin with it.
        train: the training images.
        test: the test images.
        classes: K; labels are 0 to K - 1.
    """

    origin: str
    train: Part
    test: Part
    classes: int


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one purpose: training, validation or test. Members may have different images or labels.

    Attributes:
        x: images [P, C, H, W] or [P, F], float32, prepared.
        y: [N] for all members, or [M, N], int64.
        rows: which image a sample is, [M, N], int64; None means image i for sample i, so that P = N.
    """

    x: Tensor
    y: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return self.y.shape[-1]

    def batch(self, at: slice | Tensor, members: int = 1) -> tuple[Tensor, Tensor]:
        """The samples at some places, for each member: x_MB... and y_MB."""
        y_MB = self.y[..., at].expand(members, -1)
        if self.rows is None:
            x_B = self.x[at]
            return x_B.expand(members, *x_B.shape), y_MB
        rows_MB = self.rows[:, at]
        return self.x.index_select(0, rows_MB.flatten()).view(*rows_MB.shape, *self.x.shape[1:]), y_MB

    def mixed(self, most: int) -> Split:
        """At most so many of the samples, in a random order that is always the same."""
        order = torch.randperm(len(self), generator=generator(0, "mixed"))[:most].to(self.y.device)
        if self.rows is None:
            return Split(self.x[order], self.y[..., order])
        return Split(self.x, self.y[..., order], self.rows[..., order])

    def mixed_rows(self, members: int) -> Split:
        """All samples in the order of ``mixed``, without a copy of the images: each member's rows name them."""
        order = torch.randperm(len(self), generator=generator(0, "mixed")).to(self.y.device)
        return self._in_order(order.expand(members, -1))

    def sorted_rows(self, members: int) -> Split:
        """All samples, class after class, without a copy of the images."""
        return self._in_order(self.y.argsort(stable=True).expand(members, -1))

    def _in_order(self, order_MN: Tensor) -> Split:
        rows_MN = order_MN if self.rows is None else self.rows.gather(1, order_MN)
        return Split(self.x, self.y.expand_as(order_MN).gather(1, order_MN), rows_MN)

    def of_classes(self, classes: Sequence[int]) -> Split:
        """The samples of some classes, where all members have the same samples and labels."""
        assert self.rows is None
        assert self.y.ndim == 1
        kept = torch.isin(self.y, torch.tensor(classes, device=self.y.device))
        return Split(self.x[kept], self.y[kept])

    def of(self, member: int) -> Split:
        """The samples of one member."""
        y = self.y if self.y.ndim == 1 else self.y[member, None]
        return Split(self.x, y, None if self.rows is None else self.rows[member, None])

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Split:
        """The same samples on another device, their numbers in another type."""
        rows = None if self.rows is None else self.rows.to(device)
        return Split(self.x.to(device, dtype), self.y.to(device), rows)


@dataclass(frozen=True, eq=False)
class Data:
    """A prepared data set.

    Attributes:
        name: the source.
        classes: K; labels are 0 to K - 1.
        train: the training samples.
        validation: samples that were set apart from the training images; None where none were.
        test: the source's test images of the kept classes, or ``test_limit`` of them.
        mean: the numbers that were subtracted, one a channel (or feature); zeros without ``standardize``. They do not
            include ``whiten``.
        std: the numbers that were divided by; ones without ``standardize``.
        augmentation: the random changes of training batches.
        fingerprint: see ``fingerprint``.
        order: see ``Preparation``.
        label_noise: the share of training labels that ``seen_by`` will change.
        choose: what ``seen_by`` will choose images by; ``train`` holds all of them until then. None if they are chosen.
    """

    name: str
    classes: int
    train: Split
    validation: Split | None
    test: Split
    mean: list[float]
    std: list[float]
    augmentation: Augmentation
    fingerprint: str
    order: Order = "shuffled"
    label_noise: float = 0.0
    choose: Chooser | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample: (C, H, W) or (F,)."""
        return tuple(self.train.x.shape[1:])

    def nbytes(self) -> int:
        """Bytes of all images and labels."""
        images = {id(split.x): split.x.nbytes for split in self.splits().values()}
        return sum(images.values()) + sum(split.y.nbytes for split in self.splits().values())

    def splits(self) -> dict[str, Split]:
        """Name -> split: ``train``, ``validation`` where there is one, ``test``."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    def mapped(self, change: Callable[[Split], Split]) -> Data:
        """The data with every split changed in the same way."""
        return replace(self, **{name: change(split) for name, split in self.splits().items()})  # type: ignore[arg-type]

    def of(self, member: int) -> Data:
        """What one member sees of the data."""
        return self.mapped(lambda split: split.of(member))

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Data:
        """The same data on another device, their numbers in another type."""
        return self.mapped(lambda split: split.to(device, dtype))


def fault(origin: str, what: str) -> ValueError:
    """The error for data that cannot be used, on one line: ``data.root=/data: train-labels is missing``."""
    return ValueError(" ".join(f"{origin}: {what}".splitlines()))


@contextlib.contextmanager
def reading(origin: str, file: str) -> Iterator[None]:
    """Name the file when its reader fails.

    A damaged file can make a reader raise anything: torchvision a bare AssertionError, gzip an EOFError, and zlib,
    zipfile and Pillow have other errors. In each case the file is at fault.

    Raises:
        ValueError: reading failed.
    """
    try:
        yield
    except Exception as error:
        raise fault(origin, f"{file} cannot be read ({str(error) or type(error).__name__})") from error
