"""Random changes of training images, batch by batch on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bnexp.randomness import generator


@dataclass(frozen=True)
class Augmentation:
    """Random shifts, mirrors and holes. Zero is the mean colour where the data are standardized.

    Attributes:
        flip: mirror an image left to right with probability 1/2.
        crop: pad an image by so many zeros on each side, and cut the original size out at random; 0 for none.
        cutout: side of a square, wholly inside the image, that is set to zero at a random place; 0 for none.
    """

    flip: bool = False
    crop: int = 0
    cutout: int = 0

    def decisions(self, seed: int, epoch: int, count: int, shape: Sequence[int]) -> Tensor:
        """The random choices for each of ``count`` images of a shape, (C, H, W), in an epoch; int64.

        Returns:
            A row for each choice: whether to mirror; by which row and column to shift; with ``cutout``, the first row
            and column of the hole. [0, count] where images are not changed.
        """
        if not (self.flip or self.crop or self.cutout):
            return torch.empty(0, count, dtype=torch.int64)
        random = generator(seed, "augment", epoch)
        mirrored = torch.randint(2, (1, count), generator=random)
        offsets = torch.randint(2 * self.crop + 1, (2, count), generator=random)
        sides = shape[1:] if self.cutout else ()
        holes = [torch.randint(side - self.cutout + 1, (1, count), generator=random) for side in sides]
        return torch.cat([mirrored, offsets, *holes])

    def __call__(self, x_BCHW: Tensor, mirrored_B: Tensor, row_B: Tensor, column_B: Tensor, *hole_B: Tensor) -> Tensor:
        """Change each image by its own choices."""
        if self.crop:
            x_BCHW = shifted(x_BCHW, row_B, column_B, margin=self.crop)
        if self.flip:
            x_BCHW = torch.where(mirrored_B.bool().view(-1, 1, 1, 1), x_BCHW.flip(3), x_BCHW)
        return holed(x_BCHW, *hole_B, side=self.cutout) if self.cutout else x_BCHW


def shifted(x_BCHW: Tensor, row_B: Tensor, column_B: Tensor, *, margin: int) -> Tensor:
    """Pad every image by ``margin`` zeros on each side, and cut H x W out at its own (row, column), 0 to 2 margin.

    He et al. (2016), section 4.2, with a margin of 4.
    """
    height, width = x_BCHW.shape[2:]
    # All cuts of all images as a view [B, C, 2 margin + 1, 2 margin + 1, H, W]; the indexing copies one of each image.
    cuts = F.pad(x_BCHW, [margin] * 4).unfold(2, height, 1).unfold(3, width, 1)
    return cuts[torch.arange(len(x_BCHW), device=x_BCHW.device), :, row_B, column_B]


def holed(x_BCHW: Tensor, row_B: Tensor, column_B: Tensor, *, side: int) -> Tensor:
    """Set a square of every image to zero, whose first row and column are its own (DeVries & Taylor 2017, sec. 3)."""
    height, width = (torch.arange(size, device=x_BCHW.device) for size in x_BCHW.shape[2:])
    rows_BH = (height >= row_B[:, None]) & (height < row_B[:, None] + side)
    columns_BW = (width >= column_B[:, None]) & (width < column_B[:, None] + side)
    return x_BCHW.masked_fill((rows_BH[:, :, None] & columns_BW[:, None, :]).unsqueeze(1), 0)
