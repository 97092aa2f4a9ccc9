"""What members of a population see of one data set: images that their seeds choose, and labels with noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bnexp.data.base import Data, Preparation, Split
from bnexp.randomness import generator


def seen_by(data: Data, seeds: Sequence[int]) -> Data:
    """The data as members with these seeds see them; the images are not copied, and each member indexes them.

    Args:
        data: from ``load``; on the device that the members train on.
        seeds: one a member. A member sees the same whatever the other seeds are.

    Returns:
        ``data`` itself where nothing depends on the seed.

    Raises:
        ValueError: a seed's choice leaves fewer images of a class than ``data.labels_per_class``.
    """
    if data.choose is not None:
        y = data.train.y.cpu()
        chosen = [data.choose(y, seed) for seed in seeds]
        train, validation = (_at(data.train, rows) for rows in zip(*chosen, strict=True))
        data = replace(data, train=train, validation=validation if len(validation) else None, choose=None)
    if data.label_noise:
        y_MN = data.train.y.cpu().expand(len(seeds), -1)
        noise = [noisy(y, data.label_noise, data.classes, seed) for y, seed in zip(y_MN, seeds, strict=True)]
        train = replace(data.train, y=torch.stack(noise).to(data.train.y.device))
        data = replace(data, train=train, label_noise=0.0)
    return data


def _at(pool: Split, rows: Sequence[Tensor]) -> Split:
    rows_MN = torch.stack(list(rows)).to(pool.y.device)
    return Split(pool.x, pool.y[rows_MN], rows_MN)


def noisy(y: Tensor, share: float, classes: int, seed: int) -> Tensor:
    """Labels [N] of which round(share * N), chosen at random, become another class, each other one equally likely.

    This is symmetric noise as in Ghosh et al. 2017 (probability eta / (K - 1) for each wrong class), with an exact
    count. Zhang et al. 2017 draw from all K classes, so that K - 1 of K labels that they draw are wrong. For one
    seed, a smaller share changes a part of the labels that a larger one changes, in the same way.
    """
    random = generator(seed, "label_noise")
    changed = torch.randperm(len(y), generator=random)[: round(share * len(y))]
    shift = torch.randint(1, classes, (len(y),), generator=random)[changed]
    return y.index_put((changed,), (y[changed] + shift) % classes)


def choose(y: Tensor, seed: int, how: Preparation) -> tuple[Tensor, Tensor]:
    """Indices of the training and the validation images, ascending; a smaller limit takes a part of a larger one's.

    Args:
        y: labels [P] of all training images, 0 to K - 1.
        seed: chooses the images.
        how: ``validation`` images are set apart; ``train_limit`` of the images that are left are used;
            ``labels_per_class`` of these.

    Raises:
        ValueError: there are fewer images than ``how`` asks for.
    """
    total = len(y)
    held = round(how.validation * total)
    if how.validation and not 0 < held < total:
        kind = "training" if held else "validation"
        raise ValueError(f"data.validation={how.validation}: leaves no {kind} image of the {total} there are")
    left = total - held
    limit = how.train_limit or left
    if limit > left:
        raise ValueError(f"data.train_limit={limit}: there are {left} training images")
    shuffled = torch.randperm(total, generator=generator(seed, "validation"))
    train = _balanced(shuffled[held : held + limit], y, how)
    return train.sort().values, shuffled[:held].sort().values


def _balanced(rows: Tensor, y: Tensor, how: Preparation) -> Tensor:
    """The first ``labels_per_class`` rows of each class; all rows where that is None.

    Raises:
        ValueError: a class has fewer.
    """
    each = how.labels_per_class
    if each is None:
        return rows
    labels = sorted(set(y.tolist()))
    found = [rows[y[rows] == label][:each] for label in labels]
    for label, some in zip(labels, found, strict=True):
        if len(some) < each:
            name = label if how.classes is None else how.classes[label]
            raise ValueError(f"data.labels_per_class={each}: there are {len(some)} training images of class {name}")
    return torch.cat(found)
