"""Whitening of groups of channels: batch norms that also remove the correlation between channels.

Legend: G groups of d channels, m values a channel (B of (B, C), B*H*W of (B, C, H, W)).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import Positive, PositiveFloat
from bnexp.norms.base import NORMS, Norm, values_per_statistic
from bnexp.norms.batch import BatchStatistics, Momentum, pooled_axes

# Eigenvalues of a covariance that differ by less, relative to the largest, count as equal: half of float64's digits.
_TIE = 2.0**-26


def group_width(channels: int, group_size: int) -> int:
    """The channels of a group: the largest divisor of ``channels`` that is at most ``group_size``.

    Raises:
        ValueError: the only such divisor is 1, so that nothing would be whitened.
    """
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    width = max(d for d in divisors if d <= group_size)
    if width == 1 < min(channels, group_size):
        allowed = ", ".join(map(str, divisors))
        raise ValueError(f"norm.group_size={group_size}: {channels} channels have no such groups; allowed is {allowed}")
    return width


class Whitening(BatchStatistics):
    """y = gain * W (x - mean) + bias for each group of d channels in a row, with W (cov + eps) W^T = 1.

    mean [d] and cov [d, d] (biased) are taken over the m positions of the batch, and m must be at least 2 d: with
    m <= d the covariance is singular, and the output depends more on the rest of the batch than on the input.
    Subclasses define ``whitener``.

    Args:
        group_size: the largest number of channels in a group, see ``group_width``.

    Attributes:
        width: d.
        averages: whether the running matrix averages whitening matrices or covariances.
        running_matrix: [G, d, d], the whitening matrices or covariances, 1 at first.
    """

    averages: ClassVar[Literal["whitener", "covariance"]] = "whitener"
    running_matrix: Tensor

    def __init__(self, channels: int, *, group_size: int, eps: float, momentum: float | None, affine: bool) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=affine)
        self.width = group_width(channels, group_size)
        self.least_values = max(2 * self.width, 2)
        self.register_buffer("running_matrix", torch.eye(self.width).repeat(channels // self.width, 1, 1))

    @abstractmethod
    def whitener(self, cov: Tensor) -> Tensor:
        """The matrices W for covariances [..., d, d], of the same shape and type."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, ...).

        Raises:
            ValueError: the statistics of the batch are needed and it has fewer than 2 d values a channel.
        """
        # Autocast would compute covariances, and products with the whitening matrix, in bfloat16.
        with torch.autocast("cuda" if x.is_cuda else "cpu", enabled=False):
            return super().forward(x)

    def by_batch(self, x: Tensor, *, track: bool) -> Tensor:
        """Normalize by the statistics of ``x``; with ``track``, the running ones follow them."""
        values_Gdm = self._grouped(self.wide(x))
        mean_Gd1 = values_Gdm.mean(-1, keepdim=True)
        centred_Gdm = values_Gdm - mean_Gd1
        cov = _mean_product(centred_Gdm)
        whitener = self.whitener(cov)
        if track:
            var = self.unbiased_var(_variances(cov), x)
            self.advance(mean_Gd1.flatten(), var, matrix=whitener if self.averages == "whitener" else cov)
        return self._answer(whitener @ centred_Gdm, x)

    def by_running(self, x: Tensor) -> Tensor:
        """Normalize by the running statistics."""
        centred_Gdm = self._grouped(self.wide(x)) - self.running_mean.view(-1, self.width, 1)
        matrix = self.running_matrix
        return self._answer((matrix if self.averages == "whitener" else self.whitener(matrix)) @ centred_Gdm, x)

    def products(self, deviations: Tensor) -> Tensor:
        """Average products of deviations (B, C, ...) over batch and positions, for each group, [G, d, d]."""
        return _mean_product(self._grouped(deviations))

    def set_running(self, mean: Tensor, products: Tensor) -> None:
        """Set the running statistics to the mean [C] and the covariances [G, d, d] of the layer's input."""
        super().set_running(mean, _variances(products))
        self.running_matrix.copy_(self.whitener(products) if self.averages == "whitener" else products)

    def extra_repr(self) -> str:
        """The channel count and d, for print(model)."""
        return f"{self.channels}, width={self.width}"

    def require_values(self, x: Tensor) -> None:
        """Refuse a batch of fewer than 2 d values a channel."""
        values = values_per_statistic(x, *pooled_axes(x))
        if values < self.least_values:
            raise ValueError(
                f"norm={self.name}: an input of shape {list(x.shape)} gives {values} values per channel, and groups of "
                f"{self.width} channels need {self.least_values}; use a larger batch_size, drop_last=true or a smaller "
                "norm.group_size"
            )

    def _grouped(self, x: Tensor) -> Tensor:
        """(B, C, ...) as [G, d, m]."""
        return x.transpose(0, 1).reshape(self.channels // self.width, self.width, -1)

    def _answer(self, x_hat_Gdm: Tensor, x: Tensor) -> Tensor:
        """Scale and shift x_hat, and return it in the shape and type of x."""
        x_hat = x_hat_Gdm.reshape(self.channels, *x.shape[:1], *x.shape[2:]).transpose(0, 1)
        return self.scaled(x_hat).to(x.dtype)


def _mean_product(values_Gdm: Tensor) -> Tensor:
    """The second moments, [G, d, d]."""
    return values_Gdm @ values_Gdm.mT / values_Gdm.shape[-1]


def _variances(cov: Tensor) -> Tensor:
    """The diagonals of [G, d, d] as [C]."""
    return cov.diagonal(dim1=-2, dim2=-1).flatten()


def _spectrum(cov: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Roots s of the eigenvalues of cov + eps, [..., d], rising, and eigenvectors in the columns of U, in float64.

    A covariance that is not finite gives s = nan: LAPACK would raise, and end all members of a stack.
    """
    sound = cov.isfinite().all(-1).all(-1)[..., None]
    unit = torch.eye(cov.shape[-1], dtype=torch.float64, device=cov.device)
    eigenvalues, vectors = torch.linalg.eigh(torch.where(sound[..., None], cov.double(), unit))
    # Rounding may leave a variance of 0 a little below it.
    return torch.where(sound, (eigenvalues.clamp(min=0) + eps).sqrt(), torch.nan), vectors


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2


class _Decomposition(torch.autograd.Function):
    """A function of cov + eps that returns its result, and s and U for its backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the decomposition."""
        _, s, vectors = output
        ctx.mark_non_differentiable(s, vectors)
        ctx.save_for_backward(s, vectors)


class InverseSquareRoot(_Decomposition):
    """(cov + eps)^(-1/2) = U diag(1/s) U^T with s^2 the eigenvalues, for symmetric cov [..., d, d].

    Outputs the root, and s and U for the backward pass. Differentiable once.
    """

    @staticmethod
    def forward(cov: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Decompose, and put together again."""
        s, vectors = _spectrum(cov, eps)
        return ((vectors / s[..., None, :]) @ vectors.mT).to(cov.dtype), s, vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dw: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        """The Daleckii-Krein formula, dcov = U ((U^T dW U) * K) U^T, finite at any spectrum; eigh's gradient is not.

        K_ij = (1/s_i - 1/s_j) / (s_i^2 - s_j^2) = -1 / (s_i s_j (s_i + s_j)).
        """
        s, vectors = ctx.saved_tensors
        row, column = s[..., :, None], s[..., None, :]
        inner = vectors.mT @ _symmetric(dw.double()) @ vectors / (-row * column * (row + column))
        return (vectors @ inner @ vectors.mT).to(dw.dtype), None


class PrincipalWhitener(_Decomposition):
    """diag(1/s) U^T for cov + eps = U diag(s^2) U^T, cov [..., d, d], the largest s first.

    The sign of each eigenvector is chosen so that its component of largest size is positive. Outputs the matrix, and s
    and U for the backward pass. Differentiable once.
    """

    @staticmethod
    def forward(cov: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Decompose, order and scale."""
        s, vectors = (part.flip(-1) for part in _spectrum(cov, eps))
        largest = vectors.take_along_dim(vectors.abs().argmax(-2, keepdim=True), -2)
        vectors = vectors * largest.sign()
        return (vectors / s[..., None, :]).mT.to(cov.dtype), s, vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dw: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        """The transpose of dU = U (F * (U^T dcov U)), F_ij = 1 / (s_j^2 - s_i^2), and d(s_i^2) = (U^T dcov U)_ii.

        The axes of equal eigenvalues are arbitrary, and the slightest change turns them by any angle. Their F_ij would
        be infinite, and is set to 0, as if these axes did not turn.
        """
        s, vectors = ctx.saved_tensors
        along = dw.double() @ vectors
        gap = s[..., None, :] ** 2 - s[..., :, None] ** 2
        tied = gap.abs() <= _TIE * s[..., :1, None] ** 2
        turning = torch.where(tied, 0, along.mT / s[..., None, :] / torch.where(tied, 1, gap))
        stretching = along.diagonal(dim1=-2, dim2=-1) / (-2 * s**3)
        inner = _symmetric(turning) + torch.diag_embed(stretching)
        return (vectors @ inner @ vectors.mT).to(dw.dtype), None


class ZeroPhaseWhitening(Whitening):
    """W = (cov + eps)^(-1/2), the whitening that moves the values least."""

    name = "zca"

    def whitener(self, cov: Tensor) -> Tensor:
        """The inverse square root."""
        root: Tensor
        root, *_ = InverseSquareRoot.apply(cov, self.eps)
        return root


class PrincipalWhitening(Whitening):
    """W = diag(1/s) U^T: output i of a group is the group's principal component i, with unit variance.

    The running matrix averages covariances: an average over whitening matrices with swapped axes would mean nothing.
    """

    name = "pca_whiten"
    averages = "covariance"

    def whitener(self, cov: Tensor) -> Tensor:
        """The scaled principal axes, in rows."""
        axes: Tensor
        axes, *_ = PrincipalWhitener.apply(cov, self.eps)
        return axes


@NORMS.register("zca", Capabilities(batch_of_one=("refused", "differ"), graph=False))
def zca(channels: int, *, group_size: Positive, eps: PositiveFloat, momentum: Momentum, affine: bool) -> Norm:
    """ZCA whitening, over B, H, W for each group of channels: y = gain * (cov + eps)^(-1/2) (x - mean) + bias.

    Decorrelated batch normalization: the output channels of a group have variance 1 and no correlation. Training uses
    mean and covariance of the batch, and gradients flow through both. Evaluation uses running averages of the mean and
    of the whitening matrix. A 2-D input (B, C) has B values a channel.

    Huang et al. 2018, Decorrelated Batch Normalization, algorithm 1 and section 3.

    Options:
        group_size: the largest number of channels in a group. d is the largest divisor of C up to it; 1 is batch norm.
        momentum: weight of the newest batch in the running averages, torch's convention; null for the plain average.

    Raises:
        ValueError: C has no divisor from 2 to ``group_size``; (in use) fewer than 2 d values per channel in training.
    """
    return ZeroPhaseWhitening(channels, group_size=group_size, eps=eps, momentum=momentum, affine=affine)


@NORMS.register("pca_whiten", Capabilities(batch_of_one=("refused", "differ"), graph=False))
def pca_whiten(channels: int, *, group_size: Positive, eps: PositiveFloat, momentum: Momentum, affine: bool) -> Norm:
    """PCA whitening, over B, H, W for each group of channels: y = gain * diag(s)^(-1) U^T (x - mean) + bias.

    cov + eps = U diag(s^2) U^T, the largest s first. This norm is here to show a failure: where eigenvalues are close,
    the order of the components changes from batch to batch (stochastic axis swapping), so that the next layer's weights
    get other inputs at each step. ``zca`` rotates back and has no such order. Training uses mean and covariance of the
    batch, evaluation the axes of their running averages. The gradient is exact for distinct eigenvalues; axes of equal
    eigenvalues are treated as if they did not turn. A 2-D input (B, C) has B values a channel.

    Huang et al. 2018, Decorrelated Batch Normalization, section 3.

    Options:
        group_size: the largest number of channels in a group. d is the largest divisor of C up to it; 1 is batch norm.
        momentum: weight of the newest batch in the running averages, torch's convention; null for the plain average.

    Raises:
        ValueError: C has no divisor from 2 to ``group_size``; (in use) fewer than 2 d values per channel in training.
    """
    return PrincipalWhitening(channels, group_size=group_size, eps=eps, momentum=momentum, affine=affine)
