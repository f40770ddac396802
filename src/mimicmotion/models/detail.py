"""Pixel detail of the warped picture for decoded frames (a departure of small models, see the model card).

What the limb warp shows right is sharp, and comes out soft from a small autoencoder. This network sees the decoded
frame, the warped picture and the reference picture, and chooses at each pixel how much to trust each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.errors import ConfigError, InputError
from mimicmotion.models.pose_features import Frame, PoseFrames, to_unit

FOLD = 2
"""Pixels per side of a cell of the finest level; the coarsest has 8."""
BLURS = (1.0, 2.5)
"""Standard deviations of the blurred candidates, pixels."""
CANDIDATES = 2 * (1 + len(BLURS)) + 1
"""Decoded frame, warped picture, each of them blurred, reference picture: the order of the network's weights."""


class DetailNet(nn.Module):
    """(decoded, warped, reference) to the frame with its detail.

    Each pixel becomes a weighted mean of the candidates at its place (`CANDIDATES`; blurred ones are right where a
    border may lie a little beside). Nothing is added to them: a network that may paint learns its few training people
    by heart.

    Args:
        width: channels of the coarsest level, cells of 8x8 pixels; half of them in the middle, a third in the finest.
        blocks: residual blocks of two 3x3 convolutions in the coarsest level.
        dropout: share of the coarsest level's channels that are dropped in training.
        warped_lean: added to the logarithm of the warped picture's weight outside of training. The least squared error
            of training people is softer than a pose estimator and the eye want, and theirs were noisier poses.
        blurred_lean: the same of the blurred candidates'.
    """

    def __init__(
        self,
        width: int = 96,
        blocks: int = 2,
        dropout: float = 0.1,
        warped_lean: float = 0.0,
        blurred_lean: float = 0.0,
    ) -> None:
        super().__init__()
        if width < 24 or width % 24 or blocks < 0 or not 0 <= dropout < 1:
            got = f"width={width}, blocks={blocks}, dropout={dropout}"
            raise ConfigError(got, "width in multiples of 24, blocks >= 0, 0 <= dropout < 1", "correct it")
        self.config: dict[str, Any] = {
            "width": width,
            "blocks": blocks,
            "dropout": dropout,
            "warped_lean": warped_lean,
            "blurred_lean": blurred_lean,
        }
        soft = [blurred_lean] * len(BLURS)
        self.lean = (0.0, *soft, warped_lean, *soft, 0.0)
        fine, middle = width // 3, width // 2
        self.enter = nn.Conv2d(9 * FOLD**2, fine, 3, padding=1)
        self.fine = nn.Conv2d(fine, fine, 3, padding=1)
        self.down = nn.Conv2d(fine, middle, 4, stride=2, padding=1)
        self.middle = nn.Conv2d(middle, middle, 3, padding=1)
        self.deep = nn.Conv2d(middle, width, 4, stride=2, padding=1)
        self.drop = nn.Dropout2d(dropout)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.up = nn.Conv2d(width, 4 * middle, 1)
        self.join = nn.Conv2d(middle, middle, 3, padding=1)
        self.rise = nn.Conv2d(middle, 4 * fine, 1)
        self.last = nn.Conv2d(fine, fine, 3, padding=1)
        self.out = nn.Conv2d(fine, CANDIDATES * FOLD**2, 1)
        with torch.no_grad():
            self.out.weight.zero_()
            self.out.bias.zero_()  # type: ignore[union-attr]
            for sharp in (0, 1 + len(BLURS)):
                self.out.bias[sharp * FOLD**2 : (sharp + 1) * FOLD**2] = 3.0  # type: ignore[index]

    def forward(
        self,
        decoded: Float[Tensor, "n 3 height width"],
        warped: Float[Tensor, "n 3 height width"],
        reference: Float[Tensor, "n 3 height width"],
    ) -> Float[Tensor, "n 3 height width"]:
        """Frames in about [-1, 1]; height and width in multiples of 8."""
        seen = torch.cat([warped, warped - decoded, reference - warped], 1)
        fine = self.enter(F.pixel_unshuffle(seen, FOLD))
        fine = fine + self.fine(F.silu(fine))
        middle = self.down(F.silu(fine))
        middle = middle + self.middle(F.silu(middle))
        x = self.drop(self.deep(F.silu(middle)))
        for block in self.blocks:
            x = block(x)
        middle = middle + F.pixel_shuffle(self.up(F.silu(x)), 2)
        middle = middle + self.join(F.silu(middle))
        fine = fine + F.pixel_shuffle(self.rise(F.silu(middle)), 2)
        fine = fine + self.last(F.silu(fine))
        weights = F.pixel_shuffle(self.out(F.silu(fine)), FOLD).float()
        if not self.training:
            weights = weights + weights.new_tensor(self.lean).view(1, -1, 1, 1)
        weights = weights.softmax(1)
        soft = [[blurred(p, sigma) for sigma in BLURS] for p in (decoded, warped)]
        shown = [decoded, *soft[0], warped, *soft[1], reference]
        return torch.stack([weights[:, k : k + 1] * c for k, c in enumerate(shown)]).sum(0)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))


def blurred(picture: Float[Tensor, "n 3 height width"], sigma: float) -> Float[Tensor, "n 3 height width"]:
    """The picture smoothed by a Gaussian of `sigma` pixels; edges are continued."""
    reach = round(2.5 * sigma)
    at = torch.arange(-reach, reach + 1, device=picture.device, dtype=torch.float32)
    kernel = (-0.5 * (at / sigma).square()).exp()
    kernel = (kernel / kernel.sum()).to(picture.dtype).expand(3, 1, 1, -1)
    across = F.conv2d(F.pad(picture, (reach, reach, 0, 0), mode="replicate"), kernel, groups=3)
    return F.conv2d(F.pad(across, (0, 0, reach, reach), mode="replicate"), kernel.mT, groups=3)


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
