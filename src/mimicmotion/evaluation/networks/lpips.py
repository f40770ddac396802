"""LPIPS (Zhang et al. 2018): distances between activations of AlexNet or VGG-16, weighted by learnt heads."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# channels, kernel, stride, padding; all five are compared
_ALEX = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
_VGG = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_VGG_TAPS = (1, 3, 6, 9, 12)  # the last convolution before each pooling, and the very last
_MEAN, _STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's, for pictures in [-1, 1]
MIN_SIZE = {"alex": 31, "vgg": 16}
"""Smallest side of a picture, in pixels."""


class Lpips(nn.Module):
    """LPIPS as a module; parameters are named as in the files of `mimicmotion weights fetch lpips-alex` (or lpips-vgg).

    Args:
        net: "alex" or "vgg".
    """

    def __init__(self, net: str) -> None:
        super().__init__()
        self.net = net
        self.convs = nn.ModuleList()
        inputs = 3
        for outputs, kernel, stride, padding in _ALEX if net == "alex" else ((c, 3, 1, 1) for c in _VGG):
            self.convs.append(nn.Conv2d(inputs, outputs, kernel, stride, padding))
            inputs = outputs
        taps = [c[0] for c in _ALEX] if net == "alex" else [_VGG[i] for i in _VGG_TAPS]
        self.heads = nn.ParameterList(nn.Parameter(torch.zeros(c)) for c in taps)

    def activations(self, x: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n c y x"]]:
        """The activations that LPIPS compares, for pictures in [-1, 1], normalised to unit length at each position."""
        mean, std = (x.new_tensor(v)[:, None, None] for v in (_MEAN, _STD))
        x, out = (x - mean) / std, []
        for i, conv in enumerate(self.convs):
            if self.net == "alex" and i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            elif self.net == "vgg" and i - 1 in _VGG_TAPS:
                x = F.max_pool2d(x, 2)
            x = F.relu(conv(x))
            if self.net == "alex" or i in _VGG_TAPS:
                # 1e-20, because the gradient of the root is infinite at 0
                out.append(x / ((x.square().sum(1, keepdim=True) + 1e-20).sqrt() + 1e-10))
        return out

    def forward(self, a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """Distance of each pair of pictures in [-1, 1]; 0 for equal ones."""
        pairs = zip(self.activations(a), self.activations(b), self.heads, strict=True)
        terms = [((x - y).square() * w[:, None, None]).sum(1).mean((1, 2)) for x, y, w in pairs]
        return torch.stack(terms).sum(0)
