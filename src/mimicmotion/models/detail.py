"""Pixel detail of the warped picture for decoded frames (a departure of small models, see the model card).

What the limb warp shows right is sharp, and comes out soft from a small autoencoder. This network sees the decoded
frame, the warped picture and the reference picture, and chooses at each pixel: it moves the warped picture by a small
learned displacement, blends it in where it is right, and adds a correction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.errors import ConfigError, InputError
from mimicmotion.models.pose_features import Frame, PoseFrames, to_unit

FOLD, HALF = 8, 2
"""Pixels per side of a cell of the wide part, and of the fine part."""


class DetailNet(nn.Module):
    """(decoded, warped, reference) to the frame with its detail.

    out = decoded + gate * (moved warped picture - decoded) + correction. The wide part works on frames folded 8x8 and
    decides what is where, the fine part on frames folded 2x2 and follows edges. At the start the gate is a half
    everywhere, displacement and correction are 0.

    Args:
        width: channels of the wide part.
        blocks: residual blocks of two 3x3 convolutions in the wide part.
        fine: channels of the fine part.
        reach: largest displacement in pixels.
    """

    def __init__(self, width: int = 160, blocks: int = 3, fine: int = 32, reach: float = 8.0) -> None:
        super().__init__()
        if width < 8 or width % 8 or blocks < 0 or fine < 1 or not reach > 0:
            got = f"width={width}, blocks={blocks}, fine={fine}, reach={reach}"
            raise ConfigError(got, "width in multiples of 8, blocks >= 0, fine >= 1, reach > 0", "correct it")
        self.config = {"width": width, "blocks": blocks, "fine": fine, "reach": reach}
        ratio = (FOLD // HALF) ** 2
        self.fold = nn.Conv2d(9 * FOLD**2, width, 1)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.spread = nn.Conv2d(width, ratio * fine, 1)
        self.fine_in = nn.Conv2d(6 * HALF**2 + fine, fine, 3, padding=1)
        self.fine_mid = nn.Conv2d(fine, fine, 3, padding=1)
        self.out = nn.Conv2d(fine, 6 * HALF**2, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(
        self,
        decoded: Float[Tensor, "n 3 height width"],
        warped: Float[Tensor, "n 3 height width"],
        reference: Float[Tensor, "n 3 height width"],
    ) -> Float[Tensor, "n 3 height width"]:
        """Frames in about [-1, 1]; height and width in multiples of 8."""
        difference = warped - decoded
        x = self.fold(F.pixel_unshuffle(torch.cat([warped, difference, reference - decoded], 1), FOLD))
        for block in self.blocks:
            x = block(x)
        x = F.pixel_shuffle(self.spread(F.silu(x)), FOLD // HALF)
        near = F.pixel_unshuffle(torch.cat([warped, difference], 1), HALF)
        x = self.fine_in(torch.cat([x, near], 1))
        x = x + self.fine_mid(F.silu(x))
        maps = F.pixel_shuffle(self.out(F.silu(x)), HALF).float()
        gate, shift, correction = maps[:, :1].sigmoid(), maps[:, 1:3], maps[:, 3:]
        reach = self.config["reach"]
        moved = displace(warped, reach * torch.tanh(shift / reach))
        return decoded + gate * (moved - decoded) + correction


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.normal_(self.conv2.weight, std=0.3 * (9 * width) ** -0.5)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))


def displace(
    picture: Float[Tensor, "n 3 height width"], shift: Float[Tensor, "n 2 height width"]
) -> Float[Tensor, "n 3 height width"]:
    """The picture read at each pixel's place plus `shift` (x, y in pixels), bilinear; edges are continued."""
    height, width = picture.shape[-2:]
    y = torch.arange(height, device=picture.device, dtype=shift.dtype)[:, None]
    x = torch.arange(width, device=picture.device, dtype=shift.dtype)[None]
    # align_corners=False: -1 and 1 are the outer borders, pixel centres lie half a pixel inside
    grid = torch.stack([(x + shift[:, 0] + 0.5) * (2 / width) - 1, (y + shift[:, 1] + 0.5) * (2 / height) - 1], -1)
    return F.grid_sample(picture.to(shift.dtype), grid, padding_mode="border", align_corners=False)


@torch.inference_mode()
def _detailed(
    net: DetailNet,
    decoded: Float[Tensor, "3 height width"],
    warped: Frame,
    reference: Float[Tensor, "1 3 height width"],
) -> Float[Tensor, "3 height width"]:
    param = next(net.parameters())
    moved = to_unit(warped[None]).to(decoded.device)
    if moved.shape[-2:] != decoded.shape[-2:]:
        got = f"a warped picture of {tuple(moved.shape[-2:])} pixels"
        raise InputError(got, f"{tuple(decoded.shape[-2:])} as the frame", "warp the picture at the size of the video")
    inputs = (decoded[None].clamp(-1, 1), moved, reference)
    return net(*(x.to(param.device, param.dtype) for x in inputs))[0].float()


def add_detail(
    net: DetailNet,
    frames: Iterator[Float[Tensor, "3 height width"]],
    picture: Frame,
    warped: PoseFrames,
    first: int = 0,
) -> Iterator[Float[Tensor, "3 height width"]]:
    """Decoded frames with the warped picture's detail, one by one: each depends on nothing but itself.

    Args:
        net: the network.
        frames: decoded frames, about [-1, 1]; closed with this stream.
        picture: the reference picture.
        warped: the picture warped to the frames' poses; a frame is taken when it is needed.
        first: number of the first frame in `warped`; frames before number 0 stay as they are.
    """
    reference: Tensor | None = None
    with closing(frames):  # type: ignore[type-var]
        for number, frame in enumerate(frames, first):
            if number < 0:
                yield frame
                continue
            if reference is None:
                reference = to_unit(picture[None]).to(frame.device)
            yield _detailed(net, frame, warped[number : number + 1][0], reference)
