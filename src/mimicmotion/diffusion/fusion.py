"""Long videos from overlapping segments, fused in every denoising step (paper section 3.5).

The plan and its weights only depend on frame counts. Fusion itself is a denoiser that denoises each segment and
blends the results. An Euler step is affine in x0, so blending x0 with weights that sum to 1 is equivalent to blending
the latents after the step, as written in the paper (z_next = j*lambda*z_next + (1 - j*lambda)*z_prev).

With a reference slot, each segment starts with the reference picture and the pose of its person. The slot counts as one
of the N frames of a segment and, since it is the same in all segments, as one of the C frames that neighbours share. A
segment therefore covers N - 1 frames of the video, and neighbours share C - 1 of them, as in the published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mimicmotion.diffusion.denoiser import Denoiser, Latents, Sigma
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.settings import FusionConfig, FusionMode


def has_reference_slot(cfg: FusionConfig) -> bool:
    """Return whether segments start with the reference picture; in mode "released" they always do."""
    return cfg.reference_slot or cfg.mode == "released"


def plan_segments(num_frames: int, cfg: FusionConfig) -> list[range]:
    """Split frames 0..num_frames-1 into segments of equal length; the last one is shifted back to end with the video.

    A video that is shorter than a segment is a single segment. In mode "none", only the last two segments may overlap.

    Raises:
        InputError: there are no frames.
        ConfigError: the reference slot leaves no room for frames of the video.
    """
    if num_frames < 1:
        raise InputError(f"num_frames={num_frames}", "at least 1 frame", "check that the driving video is not empty")
    length, overlap = cfg.segment_frames, cfg.overlap_frames
    if has_reference_slot(cfg):
        length, overlap = length - 1, max(overlap - 1, 0)
    if length < 1:
        raise ConfigError(
            f"segment_frames={cfg.segment_frames} with a reference slot",
            "at least 2: the reference picture takes one frame of each segment",
            "raise segment_frames, or set reference_slot to false (mode released always has it)",
        )
    step = length if cfg.mode == "none" else length - overlap
    length = min(length, num_frames)
    starts = [*range(0, num_frames - length, step), num_frames - length]
    return [range(s, s + length) for s in starts]


def segment_weights(
    segments: Sequence[range], num_frames: int, mode: FusionMode = "progressive"
) -> list[Float64[Tensor, " length"]]:
    """Compute the weight of each segment at each of its frames. The weights of a frame sum to 1 over the segments.

    - progressive: in an overlap of C frames, the next segment has weight j / (C + 1) at its j-th frame, j = 1..C. If
      more than two segments overlap, they are merged one after another, as in the paper's figure 4.
    - released: a triangular window over the whole segment including the reference slot, normalised per frame. In a
      regular overlap of two segments this is (j + 1/2) / (C + 1).
    - average: equal weights for all segments that cover the frame (MultiDiffusion).
    - none: weight 1 for the first segment that covers the frame.
    """
    parts: list[Tensor] = []
    stop = 0
    for i, seg in enumerate(segments):
        overlap = max(stop - seg.start, 0)
        part = torch.ones(len(seg), dtype=torch.float64)
        if mode == "released":
            slot = torch.arange(1, len(seg) + 1, dtype=torch.float64) + 0.5  # slot 0 is the reference
            part = torch.minimum(slot, len(seg) + 1 - slot)
        elif mode == "none":
            part[:overlap] = 0
        elif mode == "progressive":
            ramp = torch.arange(1, overlap + 1, dtype=torch.float64) / (overlap + 1)
            part[:overlap] = ramp
            for earlier, other in zip(reversed(segments[:i]), reversed(parts), strict=True):
                if earlier.stop <= seg.start:
                    break  # segments are sorted by their end
                shared = range(max(earlier.start, seg.start), earlier.stop)
                other[shared.start - earlier.start :] *= 1 - ramp[shared.start - seg.start : shared.stop - seg.start]
        parts.append(part)
        stop = seg.stop
    if mode in ("released", "average"):
        total = torch.zeros(num_frames, dtype=torch.float64)
        for seg, part in zip(segments, parts, strict=True):
            total[seg.start : seg.stop] += part
        parts = [part / total[seg.start : seg.stop] for seg, part in zip(segments, parts, strict=True)]
    return parts


@dataclass(frozen=True, slots=True, eq=False)
class FusionPlan:
    """The segments of a video, and the weights with which they are blended.

    Attributes:
        segments: rows of each segment. Without a reference slot, row f is frame f of the video; with one, row 0 is the
            reference picture and row f + 1 is frame f.
        shares: weight of each segment at each of its rows. The weights of a row sum to 1 over the segments; the
            reference row is the mean over all segments.
        reference_slot: whether row 0 is the reference picture.
    """

    segments: tuple[tuple[int, ...], ...]
    shares: tuple[Float64[Tensor, " _"], ...]
    reference_slot: bool

    @property
    def num_rows(self) -> int:
        """Number of frames of the video, plus one if there is a reference slot."""
        return 1 + max(map(max, self.segments))

    def video(self, latents: Float[Tensor, "batch rows *clip"]) -> Float[Tensor, "batch frames *clip"]:
        """Select the latents of the video's frames, without the reference row."""
        return latents[:, int(self.reference_slot) :]

    @property
    def weights(self) -> Float64[Tensor, "segments rows"]:
        """The weights as a dense matrix, for inspection; its size grows with the square of the video length."""
        table = torch.zeros(len(self.segments), self.num_rows, dtype=torch.float64)
        for line, rows, share in zip(table, self.segments, self.shares, strict=True):
            line[list(rows)] = share
        return table


def make_plan(num_frames: int, cfg: FusionConfig) -> FusionPlan:
    """Plan the segments of a video of `num_frames` frames and their weights. Raises the errors of `plan_segments`."""
    segments = plan_segments(num_frames, cfg)
    shares = segment_weights(segments, num_frames, cfg.mode)
    if not has_reference_slot(cfg):
        return FusionPlan(tuple(tuple(s) for s in segments), tuple(shares), False)
    reference = torch.full((1,), 1 / len(segments), dtype=torch.float64)
    rows = tuple((0, *(f + 1 for f in s)) for s in segments)
    return FusionPlan(rows, tuple(torch.cat([reference, share]) for share in shares), True)


def fuse(inner: Denoiser, plan: FusionPlan, device: torch.device | str | None = None) -> Denoiser:
    """Denoise a long video by denoising its segments and blending their clean latents.

    Segments run one after another, so the network's memory does not grow with the length of the video.

    Args:
        inner: denoiser for a single segment.
        plan: fusion plan of the video.
        device: device on which segments are denoised; None uses the latents' device.
    """

    def denoise(x: Latents, sigma: Sigma, frames: Sequence[int]) -> Latents:
        fused = torch.zeros_like(x)
        for rows, share in zip(plan.segments, plan.shares, strict=True):
            index = torch.tensor(rows, device=x.device)
            x0 = inner(x[:, index].to(device or x.device), sigma, [frames[r] for r in rows])
            fused.index_add_(1, index, (share.to(x0).view(-1, 1, 1, 1) * x0).to(x))
        return fused

    return denoise
