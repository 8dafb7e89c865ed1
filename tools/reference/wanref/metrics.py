"""The measures that the project uses: PSNR of the worst frame, relative L2."""

import math

import torch


def psnr(reference: torch.Tensor, frames: torch.Tensor) -> float:
    """Of frames [T, H, W, 3] in 0..1: dB of the worst frame, 120 when equal."""
    errors = (reference.double() - frames.double()).square().flatten(1).mean(1)
    return -10 * math.log10(max(errors.max().item(), 1e-12))


def relative(reference: torch.Tensor, x: torch.Tensor) -> float:
    """|x - reference| / |reference|"""
    return ((x.double() - reference.double()).norm() / reference.double().norm()).item()
