"""Evaluations of images that are not changed."""

from __future__ import annotations

from bnexp.evaluations.base import EVALUATIONS, Condition, Pixels


@EVALUATIONS.register("statistics")
def statistics(pixels: Pixels) -> list[Condition]:
    """The images themselves, under statistics that a run does not measure by itself."""
    return [Condition()]


@EVALUATIONS.register("calibration")
def calibration(pixels: Pixels) -> list[Condition]:
    """The images themselves: whether a member is right as often as it is confident (Guo et al. 2017).

    ``ece`` is the expected calibration error, ``loss`` the negative log-likelihood.
    """
    return [Condition()]
