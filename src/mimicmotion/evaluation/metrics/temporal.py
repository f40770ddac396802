"""Temporal metrics: flicker, warping error, seams between segments, and smoothness of motion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics.pixels import AnyFrames, grey, pair, unit_frames
from mimicmotion.pose.keypoints import VISIBLE, PoseSequence
from mimicmotion.runtime.reading import read_json
from mimicmotion.settings import FusionConfig, parse

STATIC = 4 / 255
"""Maximum standard deviation over time of the colours of a static pixel; it allows for camera noise."""
MARGIN, SMALLEST_MARGIN = 0.03, 4
"""Width of the excluded margin around moving pixels: fraction of the short side, and minimum in pixels."""
LEAST_SHARE = 0.01
"""Minimum fraction of the frame that must be static for flicker to be meaningful."""
NEIGHBOURS = 3
"""Number of jumps on each side of a border that it is compared with."""
HELD, HELD_SHARE = 0.5 / 255, 0.1
"""A frame repeats the previous one if it differs by less than half a grey level, and by less than this fraction of the
median jump."""
OCCLUSION_SHARE, OCCLUSION_OFFSET = 0.01, 0.5  # forward-backward check of Sundaram et al. 2010


def static_where(deviation: Float[ndarray, "height width 3"]) -> Bool[ndarray, "height width"]:
    """Mask of static pixels, given the standard deviation over time, excluding a margin around moving pixels."""
    moving = cv2.medianBlur((deviation.max(-1) > STATIC).astype(np.uint8), 5)
    reach = max(SMALLEST_MARGIN, round(MARGIN * min(moving.shape)))
    return cv2.dilate(moving, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) == 0


def background_flicker(output: AnyFrames, target: AnyFrames) -> float:
    """Standard deviation over time where the target is static, root mean square over pixels and channels (0..1).

    A wrong but constant background scores 0, and frozen or blurred ones score low: compare with the target's flicker.

    Args:
        output: generated frames, at least 2.
        target: true frames.

    Returns:
        0..0.5; NaN if less than `LEAST_SHARE` of the frame is static.

    Raises:
        InputError: lengths or sizes differ, there are fewer than 2 frames, or a value is NaN.
    """
    a, b = _clip_pair(output, target)
    still = static_where(b.std(0))
    return float(np.sqrt(a[:, still].var(0).mean())) if still.mean() >= LEAST_SHARE else float("nan")


def warping_errors(output: AnyFrames, target: AnyFrames) -> Float64[ndarray, "frames-1 2"]:
    """Mean squared difference of each frame from the previous one, warped along the optical flow of the target.

    After Lai et al. (2018), who use the flow of the evaluated frames themselves, which favours blurred, frozen or
    repeated frames. Along the true flow, frozen frames have errors, and blurred ones score below the target itself,
    which does not mean that they are better. The flow is OpenCV's DIS (medium preset) on greyscale; pixels whose
    forward and backward flow disagree, or that come from outside the frame, are ignored.

    Args:
        output: frames to evaluate.
        target: true frames.

    Returns:
        Errors of the output and of the target itself (range 0..1); NaN if no pixel is valid.

    Raises:
        InputError: as for `background_flicker`, or the frames are smaller than 16 pixels.
    """
    a, b = _clip_pair(output, target)
    if min(a.shape[1:3]) < 16:
        got = f"frames of {a.shape[1:3]}"
        raise InputError(got, "at least 16 pixels a side for optical flow", "use larger frames")
    greys = np.rint(grey(b) * 255).astype(np.uint8)
    errors = np.full((len(a) - 1, 2), np.nan)
    for i in range(1, len(a)):
        back, valid = _flow(greys[i], greys[i - 1])
        if valid.any():
            errors[i - 1] = [((x[i] - sample_bilinear(x[i - 1], back)) ** 2)[valid].mean() for x in (a, b)]
    return errors


def mean_of_known(values: Float64[ndarray, " n"]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def jumps(output: AnyFrames) -> Float64[ndarray, " frames-1"]:
    """Root mean square difference of each frame from the previous one (range 0..1)."""
    frames = unit_frames(output, "output")
    return np.sqrt(((frames[1:] - frames[:-1]) ** 2).mean((1, 2, 3)))


def seam_scores(jump: Float[ndarray, " frames-1"], borders: Sequence[int]) -> Float64[ndarray, " borders"]:
    """Ratio of the jump across each segment border to the jumps next to it.

    The score is the jump from frame border - 1 to border, divided by the median of the 3 nearest jumps on each side
    that cross no border: 1 is an invisible seam, 2 a jump twice as large as the motion around it. Frames that repeat
    the previous one (8 frames per second shown as 15) are not used for comparison, and a border before one has no
    score.

    Args:
        jump: the `jumps` of a whole clip.
        borders: first frames of new segments (with overlap: any frame at which the blend of segments changes).

    Returns:
        A score for each border; NaN before a repeated frame, or if there is no jump to compare with.

    Raises:
        InputError: a border is outside 1..frames - 1.
    """
    frames = len(jump) + 1
    if bad := [b for b in borders if not 1 <= b < frames]:
        raise InputError(
            f"border {bad[0]} in a clip of {frames} frames", f"1 to {frames - 1}", "pass the first frames of segments"
        )
    at_border = {b - 1 for b in borders}
    between = [i for i in range(len(jump)) if i not in at_border]
    moving = jump[jump >= HELD]
    held = (jump < HELD) & (jump < HELD_SHARE * (np.median(moving) if len(moving) else 0.0))
    between = [i for i in between if not held[i]] or between  # in a still clip, all frames are repeated
    scores = []
    for b in borders:
        near = [i for i in between if i < b - 1][-NEIGHBOURS:] + [i for i in between if i >= b][:NEIGHBOURS]
        # 1e-4 (a fortieth of a grey level) keeps still clips at 1
        known = near and not held[b - 1]
        scores.append((jump[b - 1] + 1e-4) / (np.median(jump[near]) + 1e-4) if known else np.nan)
    return np.array(scores)


def jerkiness(poses: PoseSequence, length: float) -> float:
    """Motion smoothness: mean norm of the second difference of point positions, in `length` per frame squared.

    It is 0 for uniform motion and high for jitter; compare with the value of the true poses. Only points that are
    visible in three consecutive frames count.

    Args:
        poses: true or detected poses.
        length: unit in pixels, such as `mimicmotion.evaluation.metrics.poses.torso_length`.

    Returns:
        The mean; NaN if no point is visible in three consecutive frames.

    Raises:
        InputError: length is not positive.
    """
    if not length > 0:
        raise InputError(f"length={length!r}", "a positive number of pixels", "use torso_length of the true poses")
    xy, seen = poses.xy.astype(np.float64), poses.confidence >= VISIBLE
    if len(xy) < 3:
        return float("nan")
    second = np.hypot(*np.moveaxis(xy[2:] - 2 * xy[1:-1] + xy[:-2], -1, 0))
    counted = second[seen[2:] & seen[1:-1] & seen[:-2]]
    return float(counted.mean() / length) if len(counted) else float("nan")


def sample_bilinear(frame: Float[ndarray, "h w c"], flow: Float32[ndarray, "h w 2"]) -> Float[ndarray, "h w c"]:
    """Sample a frame bilinearly at each pixel's position plus flow; the border is replicated."""
    rows, columns = np.indices(flow.shape[:2], np.float32)
    x, y = columns + flow[..., 0], rows + flow[..., 1]
    return cv2.remap(frame.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _flow(now: ndarray, before: ndarray) -> tuple[Float32[ndarray, "h w 2"], Bool[ndarray, "h w"]]:
    """Return the optical flow from `now` to `before`, and a mask of where it is reliable."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    back = dis.calc(now, before, np.zeros((*now.shape, 2), np.float32))
    forward = dis.calc(before, now, np.zeros((*now.shape, 2), np.float32))
    returned = sample_bilinear(forward, back)
    mismatch = ((back + returned) ** 2).sum(-1)
    steady = mismatch <= OCCLUSION_SHARE * ((back**2).sum(-1) + (returned**2).sum(-1)) + OCCLUSION_OFFSET
    rows, columns = np.indices(now.shape, np.float32)
    x, y, (height, width) = columns + back[..., 0], rows + back[..., 1], now.shape
    return back, steady & (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)


def _clip_pair(output: AnyFrames, target: AnyFrames) -> tuple[Float64[ndarray, "f h w 3"], Float64[ndarray, "f h w 3"]]:
    a, b = pair(output, target)
    if len(a) < 2:
        raise InputError(f"a clip of {len(a)} frames", "at least 2", "measure a longer clip")
    return a, b


def segment_borders(frames: int, config: FusionConfig) -> list[int]:
    """Frames at which the blend of segments changes: border b lies between frames b - 1 and b.

    With overlaps, these are the first frame of every overlap and the first one after it. With hard cuts (mode "none"),
    they are the first frames of segments; the last segment starts early to have full length, and frames that it shares
    with the previous segment belong to the latter.
    """
    from mimicmotion.diffusion.fusion import plan_segments

    segments = plan_segments(frames, config)
    if config.mode == "none":
        edges = {s.start if i < len(segments) - 1 else segments[i - 1].stop for i, s in enumerate(segments) if i}
    else:
        edges = {s.start for s in segments[1:]} | {s.stop for s in segments[:-1]}
    return sorted(e for e in edges if 0 < e < frames)


def has_sidecars(folder: Path) -> bool:
    """Whether any result in a folder has the OUTPUT.json that `generate` writes."""
    return folder.is_dir() and any(p.with_suffix("").exists() for p in folder.glob("*.json"))


def sidecar_fusion(video: Path) -> FusionConfig | None:
    """Read the fusion settings of a result from its OUTPUT.json; None if there is none, or it is unreadable.

    Also None if frames are repeated, because the segments then start at other frames of the file.
    """
    try:
        data = read_json(video.with_name(f"{video.name}.json"), "the OUTPUT.json of `generate`", "generate again")
        repeated = data.get("settings", {}).get("output_fps")
        return None if repeated else parse(FusionConfig, data["fusion"])
    except (AttributeError, InputError, KeyError, TypeError):
        return None
