"""I3D: Inception-v1 inflated to three dimensions (Carreira & Zisserman 2017), logits of Kinetics-400.

Padding is TensorFlow's 'SAME', which can be uneven: even padding would shift the features by half a pixel and change
FVD.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 400

Volume = Float[Tensor, "n c t h w"]

# channels of: point, narrow1, cube1, narrow2, cube2, pooled
_STAGES: tuple[dict[str, tuple[int, int, int, int, int, int]], ...] = (
    {"3b": (64, 96, 128, 16, 32, 32), "3c": (128, 128, 192, 32, 96, 64)},
    {
        "4b": (192, 96, 208, 16, 48, 64),
        "4c": (160, 112, 224, 24, 64, 64),
        "4d": (128, 128, 256, 24, 64, 64),
        "4e": (112, 144, 288, 32, 64, 64),
        "4f": (256, 160, 320, 32, 128, 128),
    },
    {"5b": (256, 160, 320, 32, 128, 128), "5c": (384, 192, 384, 48, 128, 128)},
)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's 'SAME' padding along one axis: (before, after); if the total is odd, one more goes after.

    >>> same_padding(224, 7, 2)
    (2, 3)
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _padded(x: Volume, kernel: Sequence[int], stride: Sequence[int], value: float) -> Volume:
    pads = [same_padding(n, k, s) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    flat = [p for pair in reversed(pads) for p in pair]  # F.pad begins with the last axis
    return F.pad(x, flat, value=value) if any(flat) else x


def _max_pool(x: Volume, kernel: Sequence[int], stride: Sequence[int]) -> Volume:
    return F.max_pool3d(_padded(x, kernel, stride, float("-inf")), tuple(kernel), tuple(stride))


class SameConv(nn.Conv3d):
    """Convolution with 'SAME' padding, then ReLU; batch normalisation is folded into its weights."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride)

    def forward(self, input: Volume) -> Volume:
        """Pad, convolve and apply ReLU."""
        return F.relu(super().forward(_padded(input, self.kernel_size, self.stride, 0.0)))


class Inception(nn.Module):
    """Four parallel branches, concatenated along the channel dimension."""

    def __init__(self, inputs: int, channels: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        point, narrow1, cube1, narrow2, cube2, pooled = channels
        self.point = SameConv(inputs, point, 1)
        self.narrow1, self.cube1 = SameConv(inputs, narrow1, 1), SameConv(narrow1, cube1, 3)
        self.narrow2, self.cube2 = SameConv(inputs, narrow2, 1), SameConv(narrow2, cube2, 3)
        self.pooled = SameConv(inputs, pooled, 1)

    def forward(self, x: Volume) -> Volume:
        """Concatenate the outputs of the branches."""
        around = F.max_pool3d(x, 3, 1, padding=1)
        return torch.cat(
            [self.point(x), self.cube1(self.narrow1(x)), self.cube2(self.narrow2(x)), self.pooled(around)], 1
        )


class I3D(nn.Module):
    """I3D as a module, with the parameter names of the file that `mimicmotion weights fetch i3d` writes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = SameConv(3, 64, 7, 2), SameConv(64, 64, 1), SameConv(64, 192, 3)
        self.blocks = nn.ModuleDict()
        channels = 192
        for name, widths in (item for stage in _STAGES for item in stage.items()):
            self.blocks[name] = Inception(channels, widths)
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.head = nn.Conv3d(channels, CLASSES, 1)

    def forward(self, x: Float[Tensor, "n 3 frames 224 224"]) -> Float[Tensor, "n 400"]:
        """Logits, averaged over time.

        Args:
            x: RGB in [-1, 1] (x / 127.5 - 1), at least 9 frames.
        """
        x = _max_pool(self.conv1(x), (1, 3, 3), (1, 2, 2))
        x = _max_pool(self.conv3(self.conv2(x)), (1, 3, 3), (1, 2, 2))
        for stage, kernel in zip(_STAGES, (3, 2, 0), strict=True):
            for name in stage:
                x = self.blocks[name](x)
            if kernel:
                x = _max_pool(x, (kernel,) * 3, (2, 2, 2))
        # the head is linear, so the mean over time can go first
        x = F.avg_pool3d(x, (2, 7, 7), 1).mean((2, 3, 4), keepdim=True)
        return self.head(x).flatten(1)
