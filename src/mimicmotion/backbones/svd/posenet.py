"""PoseNet, which encodes pose frames as features to add after the U-Net's first convolution (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.errors import ConfigError, InputError


class PoseNet(nn.Module):
    """Small convolutional encoder of pose frames, trained from scratch.

    Parameter names match the published checkpoint (`conv_layers`, `final_proj`, `scale`). The last layer is initialised
    to zero, so that the untrained model behaves like plain Stable Video Diffusion.

    Args:
        out_channels: channels of the U-Net's first level (320 in SVD).
        widths: channels of the input and after each stride-2 convolution. The published (3, 16, 32, 64) downscales by
            8. With a first width of 6, the driving and the reference pose are concatenated along the channels.

    Raises:
        ConfigError: there are fewer than two widths, or a number is below 1.
    """

    def __init__(self, out_channels: int = 320, widths: Sequence[int] = (3, 16, 32, 64)) -> None:
        super().__init__()
        if len(widths) < 2 or min(*widths, out_channels) < 1:
            raise ConfigError(
                f"PoseNet with widths={tuple(widths)}, out_channels={out_channels}",
                "at least two widths, and all numbers at least 1",
                "use the published (3, 16, 32, 64) and the U-Net's first block_out_channels",
            )
        self.out_channels, self.widths = out_channels, tuple(widths)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, a, 3, padding=1), nn.SiLU(), nn.Conv2d(a, b, 4, stride=2, padding=1), nn.SiLU()]
        last = widths[-1]
        layers += [nn.Conv2d(last, last, 3, padding=1), nn.SiLU(), nn.Conv2d(last, 2 * last, 3, padding=1), nn.SiLU()]
        self.conv_layers = nn.Sequential(*layers)
        self.final_proj = nn.Conv2d(2 * last, out_channels, 1)
        self.scale = nn.Parameter(torch.full((1,), 2.0))
        for p in self.final_proj.parameters():
            nn.init.zeros_(p)

    @property
    def downscale(self) -> int:
        """Downscaling factor: pixels of a pose frame per feature, along one side."""
        return 2 ** (len(self.widths) - 1)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments to rebuild this network, as plain data."""
        return {"out_channels": self.out_channels, "widths": list(self.widths)}

    def forward(
        self, pose: Float[Tensor, "batch frames channels height width"]
    ) -> Float[Tensor, "batch frames out height//down width//down"]:
        """Encode pose frames.

        Args:
            pose: drawn pose frames, RGB in [-1, 1] (black background is -1).

        Returns:
            Features to add after `conv_in`.

        Raises:
            InputError: the number of channels differs from `widths[0]`, or a side is not a multiple of `downscale`.
        """
        channels, height, width = pose.shape[-3:]
        if pose.ndim != 5 or channels != self.widths[0] or height % self.downscale or width % self.downscale:
            raise InputError(
                f"pose frames of shape {tuple(pose.shape)}",
                f"(batch, frames, {self.widths[0]}, height, width) with sides in multiples of {self.downscale}",
                "draw the poses at the size of the generated video",
            )
        h = self.conv_layers(pose.flatten(0, 1))  # (B F) C H W -> (B F) 2*last H/down W/down
        return (self.final_proj(h) * self.scale).unflatten(0, pose.shape[:2])


def posenet_config(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Infer PoseNet's arguments from the shapes of its weights, since published files have no config.

    Args:
        shapes: shape of each parameter, by name without prefix.

    Raises:
        KeyError: the names do not match a PoseNet.
    """
    last = max(int(k.split(".")[1]) for k in shapes if k.startswith("conv_layers.") and k.endswith(".weight"))
    # With conv and SiLU in turn, index 4 * i is the first convolution of level i; the last two convolutions have none.
    widths = [shapes[f"conv_layers.{i}.weight"][0] for i in range(0, last, 4)]
    return {"out_channels": int(shapes["final_proj.weight"][0]), "widths": [int(w) for w in widths]}
