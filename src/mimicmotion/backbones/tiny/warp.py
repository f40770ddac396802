"""Warp network: corrects the limb warp pixel by pixel (only in small models, see the model card).

From the pieces moved by the limb warp, it predicts the person's outline at full resolution, the piece that each pixel
belongs to, and a residual displacement. The affine map of the piece plus the displacement is the pixel's source in the
reference picture, from which all colours are sampled. The network also predicts which pixels are visible in the
reference picture; the rest of the model generates the others.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int8, UInt8
from numpy import ndarray
from torch import Tensor, nn

from mimicmotion.arrays import Frame, Frames
from mimicmotion.backbones.svd.decode import to_uint8
from mimicmotion.backbones.svd.pose_features import to_unit
from mimicmotion.errors import ConfigError
from mimicmotion.pose.guidance.limb_warp import Puppet, check_poses, cut
from mimicmotion.pose.guidance.limbs import BACK_TO_FRONT, mean_confidence
from mimicmotion.pose.guidance.skeleton import DrawnPoses, PoseDrawer
from mimicmotion.pose.keypoints import FACE, VISIBLE, PoseSequence

CELL = 4
"""Side of a cell in the finest level, in pixels."""
LEVELS = 4
PARTS = len(BACK_TO_FRONT)
RIGID = [BACK_TO_FRONT.index(part) for part in ("head", "right hand", "left hand")]
"""Pieces that only move by an affine map, since such a small network would smear faces and fingers."""
HEAD = RIGID[0]
BODY = [BACK_TO_FRONT.index(part) for part in ("torso", "head", "right thigh", "left thigh")]
PICTURES = (PARTS + 1, PARTS + 4)
"""Index in `WarpInput.cells` of the first channel of the warped picture and of the reference picture."""
FAR = 32.0
"""Scale of the displacements in the input channels, in pixels."""
PRIOR = 4.0
"""Scale of the piece logits; twice this is added for the topmost piece. Lower values mix distant pieces."""
_CHANNELS = PARTS + 4 * CELL**2 + 18  # number of channels of `WarpInput.cells`
_GROUPS = 8


class WarpInput(NamedTuple):
    """A batch of network inputs.

    Attributes:
        cells: input channels from pieces (their opacities first), pictures and poses, in cells of 4x4 pixels.
        top: index of the topmost piece at each pixel, or the nearest if none covers it; -1 if the frame has no pieces.
        outline: opacity of all pieces together, 0..1.
        maps: affine map of each piece from pixels (x, y, 1) to pixels of the reference picture; 0 for missing pieces.
        colours: colours of the person in [-1, 1]; see `Puppet.colours`.
        background: the background without the person, in [-1, 1].
        picture: result of the limb warp, in [-1, 1]; not used by the network.
        found: whether the driving pose contains each piece; the network does not change pieces that are not found.
    """

    cells: Float[Tensor, "n channels h w"]
    top: Float[Tensor, "n height width"]
    outline: Float[Tensor, "n height width"]
    maps: Float[Tensor, "n 14 2 3"]
    colours: Float[Tensor, "n 6 height width"]
    background: Float[Tensor, "n 3 height width"]
    picture: Float[Tensor, "n 3 height width"]
    found: Bool[Tensor, "n 14"]


@dataclass(frozen=True, slots=True)
class Warped:
    """Output of the network for a batch.

    Attributes:
        frames: warped frames, in [-1, 1].
        person: colours of the person before compositing, in [-1, 1].
        outline: logit of the person's opacity at each pixel.
        place: source of each pixel in the reference picture, (x, y) in pixels.
        visible: logit of each cell being visible in the reference picture.
    """

    frames: Float[Tensor, "n 3 height width"]
    person: Float[Tensor, "n 3 height width"]
    outline: Float[Tensor, "n height width"]
    place: Float[Tensor, "n 2 height width"]
    visible: Float[Tensor, "n h w"]


class WarpNet(nn.Module):
    """Predicts the outline, the pieces and residual displacements from the result of the limb warp.

    Args:
        widths: channels of the four levels, which have cells of 4x4 to 32x32 pixels; multiples of 8.
        decided: factor that the outline's logit is multiplied by in evaluation mode, > 0. Above 1, the outline is
            sharper, which looks better even though it is less accurate.
    """

    def __init__(self, widths: Sequence[int] = (48, 64, 88, 104), decided: float = 1.0) -> None:
        super().__init__()
        if len(widths) != LEVELS or any(w < _GROUPS or w % _GROUPS for w in widths) or decided <= 0:
            got = f"widths={tuple(widths)}, decided={decided}"
            raise ConfigError(got, f"{LEVELS} widths in multiples of {_GROUPS}, decided > 0", "correct the arguments")
        self.config: dict[str, Any] = {"widths": list(widths), "decided": decided}
        pairs = list(itertools.pairwise(widths))
        self.enter = nn.Conv2d(_CHANNELS, widths[0], 3, padding=1)
        self.down = nn.ModuleList([_Block(widths[0], widths[0]), *(_Block(a, b) for a, b in pairs)])
        self.whole = nn.Linear(widths[-1], widths[-1])
        self.up = nn.ModuleList(_Block(a + b, a) for a, b in reversed(pairs))
        self.out = nn.Conv2d(widths[0], 4 * PARTS + CELL**2 + 3, 3, padding=1)
        with torch.no_grad():  # initialise as the limb warp
            for parameter in self.out.parameters():
                parameter.zero_()

    def forward(self, given: WarpInput) -> Warped:
        """Predict warped frames; height and width must be multiples of 32."""
        x, skips = self.enter(given.cells), []
        for k, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if k else x)
            skips.append(x)
        x = x + self.whole(x.mean((2, 3)))[..., None, None]
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1))
        parts, outline, residual, visible = self.out(F.silu(x)).float().split([4 * PARTS, CELL**2, 2, 1], 1)
        opacity = F.interpolate(given.cells[:, :PARTS].float(), scale_factor=2.0)
        parts = PRIOR * F.pixel_shuffle(parts, 2) + 2.0 * opacity
        logits = F.interpolate(parts, scale_factor=2.0, mode="bilinear")
        present = given.maps.flatten(2).any(-1)
        top = F.one_hot(given.top.long() + 1, PARTS + 1)[..., 1:].movedim(-1, 1)
        near = F.interpolate(F.max_pool2d(given.cells[:, :PARTS].float(), 3, 1, 1), scale_factor=float(CELL)) + top > 0
        fixed = (near & ~given.found[..., None, None]).any(1) & (not self.training)  # stay as in the limb warp
        free = ~(_rigid(given.top) | fixed)[:, None]
        weights = (logits * free + 2 * PRIOR * top).masked_fill(~(near & present[..., None, None]), -60.0).softmax(1)
        residual = displacements(8.0 * residual, given).masked_fill(fixed[:, None], 0.0)
        body = torch.zeros(PARTS, device=weights.device).index_fill(0, torch.tensor(BODY, device=weights.device), 1.0)
        place, person = torch.zeros_like(residual), torch.zeros_like(given.background)
        for colours, pieces in zip(given.colours.split(3, 1), (1 - body, body), strict=True):
            piece_weights = weights * pieces[:, None, None]
            total = piece_weights.sum(1, keepdim=True)
            source = _sources(piece_weights, given.maps) / total.clamp_min(1e-6) + residual
            place, person = place + total * source, person + total * _sample(colours, source)
        logit = given.outline.logit(0.02) + F.pixel_shuffle(outline, CELL)[:, 0].masked_fill(fixed, 0.0)
        alpha = (logit if self.training else self.config["decided"] * logit).sigmoid()[:, None]
        alpha = alpha * present.any(1)[:, None, None, None]  # without a person, only the background remains
        frames = alpha * person + (1 - alpha) * given.background
        return Warped(frames, person, logit, place, visible[:, 0])  # type: ignore[arg-type]


class _Block(nn.Module):
    def __init__(self, enter: int, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(enter, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(_GROUPS, enter), nn.GroupNorm(_GROUPS, width)
        self.skip = nn.Identity() if enter == width else nn.Conv2d(enter, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


def _rigid(top: Float[Tensor, "n h w"]) -> Bool[Tensor, "n h w"]:
    return torch.isin(top.long(), torch.tensor(RIGID, device=top.device))


def displacements(residual: Float[Tensor, "n 2 h w"], given: WarpInput) -> Float[Tensor, "n 2 height width"]:
    """Upsample displacements to full resolution; on rigid pieces, replace them by the least-squares affine fit."""
    height, width = residual.shape[-2:]
    y, x = torch.meshgrid(*(torch.arange(n, device=residual.device) / 8.0 for n in (height, width)), indexing="ij")
    positions, values = torch.stack([x, y]).flatten(1), residual.flatten(2)
    full = F.interpolate(residual, scale_factor=float(CELL), mode="bilinear")
    for piece in RIGID:
        weight = given.cells[:, piece].flatten(1)[:, None].float() + 1e-4
        weight = weight / weight.sum(2, keepdim=True)
        centre, mean = (positions * weight).sum(2, keepdim=True), (values * weight).sum(2, keepdim=True)
        offsets = positions - centre
        covariance = (weight * offsets) @ offsets.mT + 0.1 * torch.eye(2, device=offsets.device)
        slope = torch.linalg.solve(covariance, (weight * offsets) @ (values - mean).mT)
        fitted = (mean + slope.mT @ offsets).unflatten(2, (height, width))
        fitted = F.interpolate(fitted, scale_factor=float(CELL), mode="bilinear")
        full = torch.where((given.top == piece)[:, None], fitted, full)
    return full


def _sources(weights: Float[Tensor, "n 14 h w"], maps: Float[Tensor, "n 14 2 3"]) -> Float[Tensor, "n 2 h w"]:
    """Return the source of each pixel in the reference picture: the weighted sum of the pieces' affine maps."""
    height, width = weights.shape[-2:]
    y, x = torch.meshgrid(*(torch.arange(n, device=maps.device) for n in (height, width)), indexing="ij")
    a = torch.einsum("nkhw,nkij->nijhw", weights, maps)
    return a[:, :, 0] * x + a[:, :, 1] * y + a[:, :, 2]


def _sample(picture: Float[Tensor, "n 3 h w"], place: Float[Tensor, "n 2 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Sample a picture at positions (x, y) in pixels, bicubically, which keeps faces sharper than bilinear sampling."""
    height, width = picture.shape[-2:]
    grid = torch.stack([(2 * place[:, 0] + 1) / width - 1, (2 * place[:, 1] + 1) / height - 1], -1)
    return F.grid_sample(picture, grid, mode="bicubic", padding_mode="border", align_corners=False)


class MovedPicture:
    """A picture warped by the network to each pose, computed on access; see `WarpedPicture`.

    Args:
        net: the network.
        reference: RGB picture.
        own: pose of the person in the picture (one frame), in its pixels.
        driving: driving poses, in pixels of the picture.
        drawer: draws poses at the picture's size.
    """

    def __init__(
        self, net: WarpNet, reference: Frame, own: PoseSequence, driving: PoseSequence, drawer: PoseDrawer
    ) -> None:
        check_poses(reference, own, driving)
        self.net, self.reference, self.own, self.driving, self.drawer = net, reference, own, driving, drawer
        self.puppet = cut(reference, own)
        self.frame = functools.lru_cache(maxsize=64)(self._frame)  # the U-Net and `show_moved` use each frame
        """Returns the warped frame at an index, and the probability that each pixel is visible in the reference."""

    def __len__(self) -> int:
        return len(self.driving)

    def __getitem__(self, index: slice, /) -> Frames:
        return np.concatenate([self.frame(n)[0] for n in range(*index.indices(len(self)))])

    @torch.inference_mode()
    def _frame(self, number: int) -> tuple[UInt8[ndarray, "1 height width 3"], Float[Tensor, "height width"]]:
        given = warp_input(self.puppet, self.reference, self.own, self.driving[number : number + 1], self.drawer)
        param = next(self.net.parameters())
        given = WarpInput(*(x.to(param.device) for x in given))
        out = self.net(given._replace(cells=given.cells.to(param.dtype)))
        visible = F.interpolate(out.visible[None].sigmoid(), scale_factor=float(CELL), mode="bilinear")[0, 0]
        # show the inpainted background outside the person, so that it does not move
        visible = torch.maximum(visible, 1 - (self.net.config["decided"] * out.outline[0]).sigmoid())
        warped = given.outline[0] > 0.5
        islands = _islands(out.outline[0] > 0, warped)
        frames = torch.where(islands, given.background, out.frames)
        return to_uint8(frames), visible.masked_fill(_rigid(given.top)[0] & warped | islands, 1.0)


def _islands(
    person: Bool[Tensor, "height width"], warped: Bool[Tensor, "height width"]
) -> Bool[Tensor, "height width"]:
    """Find the connected components of the predicted person that touch no piece of the limb warp; they are errors."""
    _, labels = cv2.connectedComponents(person.cpu().numpy().astype(np.uint8))
    touching = torch.from_numpy(np.isin(labels, labels[warped.cpu().numpy()]))
    return person & ~touching.to(person.device)


def show_moved(
    moved: MovedPicture, frames: Iterator[Float[Tensor, "3 height width"]], first: int = 0
) -> Iterator[Float[Tensor, "3 height width"]]:
    """Blend the warped picture into frames, weighted by its visibility in the reference picture.

    Args:
        moved: the warped picture.
        frames: frames in about [-1, 1]; closed together with this generator.
        first: index of the first frame in the video; frames with a negative index are returned unchanged.
    """
    with closing(frames):  # type: ignore[type-var]
        for number, frame in enumerate(frames, first):
            if number < 0:
                yield frame
                continue
            warped, visible = moved.frame(number)
            yield torch.lerp(frame, to_unit(warped)[0].to(frame), visible.to(frame))


def warp_input(
    puppet: Puppet, reference: Frame, own: PoseSequence, driving: PoseSequence, drawer: PoseDrawer
) -> WarpInput:
    """Make the network's inputs for a picture and driving poses.

    Args:
        puppet: the reference picture cut into pieces.
        reference: RGB reference picture.
        own: pose of the person in the picture (one frame), in its pixels.
        driving: driving poses, in pixels of the picture.
        drawer: draws poses at the picture's size.
    """
    arrangements = [puppet.arrange(xy, c) for xy, c in zip(driving.xy, driving.confidence, strict=True)]
    poses, own_pose = (DrawnPoses(p, drawer)[:] for p in (driving, own))
    n, (height, width) = len(arrangements), reference.shape[:2]
    top = torch.from_numpy(np.stack([_spread(a.top) for a in arrangements]))
    outline, opacity, maps = (
        torch.from_numpy(np.stack([getattr(a, name) for a in arrangements])) for name in ("outline", "opacity", "maps")
    )
    pictures = to_unit(np.stack([a.picture for a in arrangements]))
    person = np.max([layer[..., 3] for layer in puppet.layers.values()] or [np.zeros((height, width), np.float32)], 0)
    planes = [opacity, torch.from_numpy(person)[None, None], pictures, to_unit(reference[None]), to_unit(own_pose)]
    cells = [F.avg_pool2d(p, CELL).expand(n, -1, -1, -1) for p in planes]
    cells += [F.pixel_unshuffle(p, CELL) for p in (to_unit(poses), outline[:, None])]
    # displacement and linear part of the map of the piece at the centre of each cell
    rows, columns = (torch.arange(CELL // 2, size, CELL) for size in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    centres = torch.stack([x, y, torch.ones_like(x)], -1).float()
    chosen = maps[torch.arange(n)[:, None, None], top[:, rows][:, :, columns].long()]
    shift = ((chosen @ centres[..., None])[..., 0] - centres[..., :2]) / FAR
    linear = (chosen[..., :2] - torch.eye(2)).flatten(-2)
    positions = (centres[..., :2] / torch.tensor([width, height]) * 2 - 1).expand(n, -1, -1, -1)
    cells.append(torch.cat([shift, linear, positions], -1).movedim(-1, 1))
    colours = to_unit(puppet.colours).flatten(0, 1).expand(n, -1, -1, -1)
    background = to_unit(puppet.background[None]).expand(n, -1, -1, -1)
    confidence = [[mean_confidence(c, part) for part in BACK_TO_FRONT] for c in driving.confidence]
    found = torch.tensor(confidence) > VISIBLE
    found[:, HEAD] = torch.from_numpy(driving.confidence[:, FACE].mean(1) > VISIBLE)
    return WarpInput(torch.cat(cells, 1), top, outline, maps, colours, background, pictures, found)


def _spread(top: Int8[ndarray, "height width"]) -> Int8[ndarray, "height width"]:
    """Fill pixels without a piece with the index of the nearest one."""
    if (top < 0).all():
        return top
    missing = (top < 0).astype(np.uint8)
    _, nearest = cv2.distanceTransformWithLabels(missing, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    pieces = np.zeros(nearest.max() + 1, np.int8)
    pieces[nearest[missing == 0]] = top[missing == 0]
    return pieces[nearest]
