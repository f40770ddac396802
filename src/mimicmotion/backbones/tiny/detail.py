"""Detail network for decoded frames, which the published model does not have (see the model card).

The warped picture is sharp, but the small autoencoder blurs it. From the decoded frame, the warped picture, the
reference picture and both poses, this network predicts how to blend these pictures at each pixel, including blurred and
displaced versions of them and a predicted colour.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.backbones.base import Request
from mimicmotion.backbones.svd.pose_features import to_unit
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.pose.guidance.limb_warp import WarpedPoses

FOLD = 2
"""Side of a cell in the finest level, in pixels; it doubles with each level."""
LEVELS = 4
BLURS = (1.0, 2.5)
"""Standard deviations of the Gaussian blurs, in pixels."""
REACH = 8.0
"""Maximum displacement of the moved candidates along each axis, in pixels."""
CANDIDATES = ("decoded", "decoded 1", "decoded 2.5", "warped", "warped 1", "warped 2.5", "reference")
CANDIDATES += ("warped, moved", "decoded, moved", "painted")
_GROUPS = 8


class DetailNet(nn.Module):
    """Adds detail to decoded frames.

    Each pixel is a weighted mean of `CANDIDATES`: the pictures, blurred pictures (for uncertain borders), pictures
    displaced by a low-resolution field, and a predicted colour.

    Args:
        widths: channels of the levels, which have cells of 2x2 to 16x16 pixels; multiples of 8.
        blocks: residual blocks of two 3x3 convolutions per level, in both the encoder and the decoder.
        dropout: probability of dropping a channel of the coarsest level in training.
        fine: channels between two final convolutions at full resolution, to refine the weights of 2x2 cells;
            0 for none.
        sharp_lean: bias of the warped picture, displaced or not: added to its log-weights in evaluation mode, because
            the least-squares result is blurrier than people and pose estimators prefer.
        blurred_lean: bias of the blurred candidates.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 48, 96, 128),
        blocks: Sequence[int] = (1, 1, 2, 2),
        dropout: float = 0.1,
        fine: int = 0,
        sharp_lean: float = 0.0,
        blurred_lean: float = 0.0,
    ) -> None:
        super().__init__()
        _check(widths, blocks, dropout, fine)
        self.config: dict[str, Any] = {
            "widths": list(widths),
            "blocks": list(blocks),
            "dropout": dropout,
            "fine": fine,
            "sharp_lean": sharp_lean,
            "blurred_lean": blurred_lean,
        }
        soft = [blurred_lean] * len(BLURS)
        self.lean = (0.0, *soft, sharp_lean, *soft, 0.0, sharp_lean, 0.0, 0.0)
        steps = list(itertools.pairwise(widths))

        def level(k: int) -> nn.Sequential:
            return nn.Sequential(*(_Block(widths[k]) for _ in range(blocks[k])))

        self.enter = nn.Conv2d(15 * FOLD**2, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(level(k) for k in range(LEVELS))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in steps)
        self.drop = nn.Dropout2d(dropout)
        self.ups = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in steps)
        self.up_blocks = nn.ModuleList(level(k) for k in range(LEVELS - 1))
        self.displace = nn.Conv2d(widths[1], 4, 3, padding=1)
        outputs = len(CANDIDATES) + 3
        self.out = nn.Conv2d(widths[0], outputs * FOLD**2, 1)
        self.fine = _corrections(outputs, fine) if fine else None
        with torch.no_grad():
            nn.init.normal_(self.displace.weight, std=1e-3)
            for parameter in (self.displace.bias, self.out.weight, self.out.bias):
                parameter.zero_()  # type: ignore[union-attr]
            for sharp in ("decoded", "warped"):
                k = CANDIDATES.index(sharp)
                self.out.bias[k * FOLD**2 : (k + 1) * FOLD**2] = 3.0  # type: ignore[index]

    def forward(
        self,
        decoded: Float[Tensor, "n 3 height width"],
        warped: Float[Tensor, "n 3 height width"],
        reference: Float[Tensor, "n 3 height width"],
        pose: Float[Tensor, "n 3 height width"],
        reference_pose: Float[Tensor, "n 3 height width"],
    ) -> Float[Tensor, "n 3 height width"]:
        """Add detail to frames.

        Args:
            decoded: decoded frames, in about [-1, 1]; height and width are multiples of 16.
            warped: the picture warped to each pose, in [-1, 1].
            reference: the picture, in [-1, 1].
            pose: drawn poses of the frames, in [-1, 1].
            reference_pose: drawn reference pose, in [-1, 1].

        Returns:
            Frames in about [-1, 1].
        """
        inputs = torch.cat([warped, warped - decoded, reference - warped, pose, reference_pose], 1)
        fine, coarse = self._levels(F.pixel_unshuffle(inputs, FOLD))
        out = F.pixel_shuffle(self.out(F.silu(fine)), FOLD)
        if self.fine is not None:
            out = out + self.fine(torch.cat([out, warped, warped - decoded, reference - warped], 1))
        out = out.float()
        weights, colour = out.split([len(CANDIDATES), 3], 1)
        if not self.training:
            weights = weights + weights.new_tensor(self.lean).view(1, -1, 1, 1)
        shift = REACH * torch.tanh(self.displace(F.silu(coarse)).float() / 2)
        shift = F.interpolate(shift, scale_factor=2.0 * FOLD, mode="bilinear")
        soft = [[blurred(p, sigma) for sigma in BLURS] for p in (decoded, warped)]
        pictures = [decoded, *soft[0], warped, *soft[1], reference]
        pictures += [moved(warped, shift[:, :2]), moved(decoded, shift[:, 2:]), soft[0][-1] + colour]
        return sum(w[:, None] * p.float() for w, p in zip(weights.softmax(1).unbind(1), pictures, strict=True))  # type: ignore[return-value]

    def _levels(self, folded: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features of the finest and the second finest level."""
        x, skips = self.enter(folded), []
        for blocks, down in zip(self.down_blocks, self.downs, strict=False):
            x = blocks(x)
            skips.append(x)
            x = down(F.silu(x))
        x = self.down_blocks[-1](self.drop(x))
        features = []
        for skip, up, blocks in zip(reversed(skips), reversed(self.ups), reversed(self.up_blocks), strict=True):  # type: ignore[call-overload]
            x = blocks(skip + F.pixel_shuffle(up(F.silu(x)), 2))
            features.append(x)
        return features[-1], features[-2]


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():  # initialise as the identity
            for parameter in self.conv2.parameters():
                parameter.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))


def _corrections(outputs: int, channels: int) -> nn.Sequential:
    """Build convolutions that map the outputs and three pictures to corrections of the outputs, initially 0."""
    last = nn.Conv2d(channels, outputs, 3, padding=1)
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.zero_()
    return nn.Sequential(nn.Conv2d(outputs + 9, channels, 3, padding=1), nn.SiLU(), last)


def _check(widths: Sequence[int], blocks: Sequence[int], dropout: float, fine: int) -> None:
    fits = len(widths) == len(blocks) == LEVELS and all(w >= _GROUPS and w % _GROUPS == 0 for w in widths)
    if not fits or min(blocks) < 0 or not 0 <= dropout < 1 or fine < 0:
        got = f"widths={tuple(widths)}, blocks={tuple(blocks)}, dropout={dropout}, fine={fine}"
        want = f"{LEVELS} widths in multiples of {_GROUPS}, {LEVELS} blocks >= 0, 0 <= dropout < 1, fine >= 0"
        raise ConfigError(got, want, "correct the arguments")


def moved(
    picture: Float[Tensor, "n 3 height width"], shift: Float[Tensor, "n 2 height width"]
) -> Float[Tensor, "n 3 height width"]:
    """Sample a picture bilinearly at each pixel's position plus `shift` = (x, y) pixels; the border is replicated."""
    height, width = picture.shape[-2:]
    steps = (torch.arange(n, device=shift.device, dtype=shift.dtype) for n in (height, width))
    y, x = torch.meshgrid(*steps, indexing="ij")
    grid = torch.stack([(2 * (x + shift[:, 0]) + 1) / width - 1, (2 * (y + shift[:, 1]) + 1) / height - 1], -1)
    return F.grid_sample(picture.to(shift.dtype), grid, padding_mode="border", align_corners=False)


def blurred(picture: Float[Tensor, "n 3 height width"], sigma: float) -> Float[Tensor, "n 3 height width"]:
    """Blur a picture with a Gaussian of `sigma` pixels; the border is replicated."""
    reach = round(2.5 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=picture.device, dtype=torch.float32)
    kernel = (-0.5 * (offsets / sigma).square()).exp()
    kernel = (kernel / kernel.sum()).to(picture.dtype).expand(3, 1, 1, -1)
    across = F.conv2d(F.pad(picture, (reach, reach, 0, 0), mode="replicate"), kernel, groups=3)
    return F.conv2d(F.pad(across, (0, 0, reach, reach), mode="replicate"), kernel.mT, groups=3)


def add_detail(
    net: DetailNet, frames: Iterator[Float[Tensor, "3 height width"]], request: Request, first: int = 0
) -> Iterator[Float[Tensor, "3 height width"]]:
    """Add detail to decoded frames, independently of each other.

    Args:
        net: the network.
        frames: decoded frames, in about [-1, 1]; closed together with this generator.
        request: request of the video, whose poses include the warped picture (`WarpedPoses`). Without a reference
            pose, a black picture is used.
        first: index of the first frame in the video; frames with a negative index are returned unchanged.
    """
    picture, own, poses = request.image, request.reference_pose, request.poses
    assert isinstance(poses, WarpedPoses)
    param = next(net.parameters())
    with closing(frames):  # type: ignore[type-var]
        reference, own_pose = to_unit(picture[None]), to_unit((np.zeros_like(picture) if own is None else own)[None])
        for number, frame in enumerate(frames, first):
            if number < 0:
                yield frame
                continue
            warped, pose = (to_unit(f[number : number + 1]) for f in (poses.warped, poses))
            for name, shown in (("warped picture", warped), ("drawn pose", pose)):
                if shown.shape[-2:] != frame.shape[-2:]:
                    got, expected = f"a {name} of {tuple(shown.shape[-2:])} pixels", f"{tuple(frame.shape[-2:])}"
                    raise InputError(got, expected, "render it at the size of the video")
            inputs = (frame[None].clamp(-1, 1), warped, reference, pose, own_pose)
            with torch.inference_mode():
                out = net(*(x.to(param.device, param.dtype) for x in inputs))[0].float()
            yield out
