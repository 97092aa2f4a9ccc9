"""Centring, scaling, rotating and whitening of inputs taken as vectors, by the moments of the training images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bnexp.data.base import Whiten

# Samples a step, so that their float64 copies stay small.
_CHUNK = 4096
# The decomposition of the covariance takes time as the cube of the features: a minute at this many.
_MOST_FEATURES = 4096
# Kinds whose outputs are not pixels.
_ROTATED = ("rotate", "pca")


@dataclass(frozen=True, eq=False)
class Whitening:
    """y = A (x - mean) for x flattened to F features with training mean ``mean`` and training covariance Sigma.

    With Sigma = U diag(lambda) U^T, the largest lambda first:

    - centre: A = 1;
    - scale: A = diag(Sigma + eps)^(-1/2), feature by feature;
    - rotate: A = U^T, principal components;
    - pca: A = diag(lambda + eps)^(-1/2) U^T;
    - zca: A = U diag(lambda + eps)^(-1/2) U^T, of all whitenings the closest to the input.

    After pca and zca the training covariance has the eigenvalues lambda / (lambda + eps). Sigma is biased (divided by
    N). LeCun et al. 1998, Efficient BackProp, sec. 4.3; zca: Bell & Sejnowski 1997.

    Attributes:
        mean: [F], float64.
        matrix: A^T, [F, F], float64; None is the identity; [F] is a diagonal.
        vectors: the outputs are vectors (N, F), also of images: a rotated image has no rows and columns.
    """

    mean: Tensor
    matrix: Tensor | None
    vectors: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Transform x, (N, C, H, W) or (N, F), and overwrite it: a data set may fill half the memory."""
        flat_NF = x.flatten(1)
        for part in _chunks(flat_NF):
            part.copy_(self._transformed(part.double() - self.mean))
        return flat_NF if self.vectors else flat_NF.view(x.shape)

    def _transformed(self, centred_NF: Tensor) -> Tensor:
        if self.matrix is None:
            return centred_NF
        return centred_NF * self.matrix if self.matrix.ndim == 1 else centred_NF @ self.matrix


def whitening(kind: Whiten, x: Tensor, eps: float) -> Whitening | None:
    """The transformation that training images ask for, or None.

    Args:
        kind: ``data.whiten``.
        x: the training images, (N, C, H, W) or (N, F).
        eps: added to the variances that are divided by.

    Raises:
        ValueError: the images have too many features for a covariance.
    """
    if kind == "none":
        return None
    x_NF = x.flatten(1)
    features = x_NF.shape[1]
    if kind in (*_ROTATED, "zca") and features > _MOST_FEATURES:
        raise ValueError(
            f"data.whiten={kind}: {features} features are too many; at most {_MOST_FEATURES} (data.size=32 shrinks)"
        )
    mean_F = sum((part.double().sum(0) for part in _chunks(x_NF)), torch.zeros(features, dtype=torch.float64)) / len(x)
    return Whitening(mean_F, _matrix(kind, x_NF, mean_F, eps), vectors=kind in _ROTATED)


def _matrix(kind: Whiten, x_NF: Tensor, mean_F: Tensor, eps: float) -> Tensor | None:
    if kind == "centre":
        return None
    centred = (part.double() - mean_F for part in _chunks(x_NF))
    if kind == "scale":
        variance_F = sum((part.square().sum(0) for part in centred), torch.zeros_like(mean_F)) / len(x_NF)
        return (variance_F + eps).rsqrt()
    sigma_FF = sum((part.T @ part for part in centred), mean_F.new_zeros(len(mean_F), len(mean_F))) / len(x_NF)
    lambda_F, u_FF = _principal(sigma_FF)
    if kind == "rotate":
        return u_FF
    pca_FF = u_FF * (lambda_F + eps).rsqrt()
    return pca_FF if kind == "pca" else pca_FF @ u_FF.T


def _chunks(x_NF: Tensor) -> Iterator[Tensor]:
    return (x_NF[start : start + _CHUNK] for start in range(0, len(x_NF), _CHUNK))


def _principal(sigma_FF: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, the largest first, and eigenvectors in columns, the largest entry of each positive.

    Without this choice the signs would depend on the library; the inputs of a run must be the same everywhere.
    """
    lambda_F, u_FF = torch.linalg.eigh(sigma_FF)
    largest = u_FF.gather(0, u_FF.abs().argmax(0, keepdim=True))
    return lambda_F.clamp(min=0).flip(0), (u_FF * largest.sign()).flip(1)
