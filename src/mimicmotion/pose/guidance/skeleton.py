"""Poses as coloured pictures: the input of PoseNet (paper section 3.3, confidence-aware pose guidance).

The default style is the one that the published weights were trained on. It is painted without anti-aliasing on a canvas
with a short side of 2160 pixels, and downsampled bilinearly. A limb is a filled ellipse of 4 px half-width at 60% of
its colour, a joint a disc of radius 4, a finger bone a line of width 2, a hand point a disc of radius 4, a face point a
disc of radius 3. Each colour is multiplied by the confidence of its point, or by those of the limb's two ends.

Painting is cheap; clearing, dimming and downsampling a canvas of 25 MB are not. Limb colours are therefore dimmed
before painting, and only the rectangle around the person is cleared and downsampled. It is aligned to the sampling grid
of the whole canvas, so the pixels are the same.
"""

from __future__ import annotations

import colorsys
import copy
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from mimicmotion.arrays import Frame, Frames
from mimicmotion.errors import PoseError
from mimicmotion.pose.keypoints import BODY, FACE, FEET, LEFT_HAND, NUM_POINTS, RIGHT_HAND, VISIBLE, PoseSequence
from mimicmotion.runtime.threads import cores

Box: TypeAlias = tuple[int, int, int, int]  # top, bottom, left, right

RELEASED_SHORT_SIDE = 2160
DIMMING = 0.6

# Body point pairs in painting order.
LIMBS = np.array(
    "1-2 1-5 2-3 3-4 5-6 6-7 1-8 8-9 9-10 1-11 11-12 12-13 1-0 0-14 14-16 0-15 15-17".replace("-", " ").split(), int
).reshape(-1, 2)
# Red, green, blue: 18 steps around the colour wheel. The released code builds OpenPose's colours as RGB, then swaps red
# and blue at the end, so the nose is blue; the published weights were trained that way.
_WHEEL = [(255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)]
BODY_COLOURS = np.array([np.roll(c, k)[::-1] for k in range(3) for c in _WHEEL], dtype=np.float64)
BONES = np.array([(0 if k == 0 else 4 * finger + k, 4 * finger + k + 1) for finger in range(5) for k in range(4)])
BONE_COLOURS = np.array([colorsys.hsv_to_rgb(i / len(BONES), 1.0, 1.0)[::-1] for i in range(len(BONES))])

_SHIFT = 4  # fractional bits of sub-pixel coordinates
_FAR = 1 << 14  # points farther outside the canvas (pixels) are clamped: OpenCV uses 32-bit coordinates


class PoseDrawer:
    """Draws poses for one frame size, reusing one canvas. Not thread-safe.

    Args:
        size: (height, width) of the pictures.
        canvas_short_side: 2160 reproduces the released style exactly. None paints with sub-pixel precision at 2-4
            times the target size and downsamples by averaging: the same colours and relative widths, anti-aliased and
            many times faster, for small pictures (below about 400 pixels, the released style breaks thin lines
            apart). Any other number sets the short side of the canvas for this mode.
        stroke: factor for all widths; must be 1 if canvas_short_side is 2160.
        confidence_aware: False draws only points above `threshold`, at full brightness (for ablations).
        threshold: see `confidence_aware`; unused in confidence-aware drawing.

    Raises:
        PoseError: the size, the stroke or the threshold is invalid.
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        canvas_short_side: int | None = RELEASED_SHORT_SIDE,
        stroke: float = 1.0,
        confidence_aware: bool = True,
        threshold: float = VISIBLE,
    ) -> None:
        height, width = size
        if min(size) < 1:
            raise PoseError(f"picture size {size}", "height and width of at least 1", "pass (height, width) in pixels")
        if not 0 <= threshold < 1:
            raise PoseError(f"threshold={threshold}", "0 or more, below 1", "use 0.3")
        self.threshold = threshold
        self.released = canvas_short_side == RELEASED_SHORT_SIDE
        if stroke <= 0 or (self.released and stroke != 1):
            expected = f"above 0, and exactly 1 if canvas_short_side is {RELEASED_SHORT_SIDE}"
            raise PoseError(f"stroke={stroke}", expected, "set canvas_short_side=None")
        self.size, self.confidence_aware = (height, width), confidence_aware
        short = min(size)
        target = canvas_short_side or short * (4 if short <= 256 else 3 if short <= 448 else 2)
        ratio = target / short
        # int() as in the released code: the canvas may be a fraction of a pixel short
        self.canvas_size = (max(1, int(height * ratio)), max(1, int(width * ratio)))
        self.unit = stroke * target / RELEASED_SHORT_SIDE
        self._canvas = np.zeros((*self.canvas_size, 3), np.uint8)
        self._dirty: Box | None = None

    def clone(self) -> PoseDrawer:
        """Return a drawer with the same style for another thread."""
        other = copy.copy(self)
        other._canvas, other._dirty = np.zeros_like(self._canvas), None
        return other

    def draw(
        self, xy: Float[ndarray, "*people 134 2"], confidence: Float[ndarray, "*people 134"]
    ) -> UInt8[ndarray, "height width 3"]:
        """Draw an RGB picture.

        Args:
            xy: points in pixels of `size`, of one or several people.
            confidence: 0..1; points of confidence 0 are not drawn.
        """
        people = np.asarray(xy, np.float64).reshape(-1, NUM_POINTS, 2)
        scores = np.asarray(confidence, np.float64).reshape(-1, NUM_POINTS)
        if not (np.isfinite(people).all() and np.isfinite(scores).all()):
            raise PoseError("NaN or infinity in the pose", "finite numbers", "mark unseen points with confidence 0")
        if not self.confidence_aware:
            scores = (scores > self.threshold).astype(np.float64)
        # Convert to fractions of the picture first, as the released code does, for identical rounding at pixel edges.
        people = people / self.size[::-1] * self.canvas_size[::-1]
        people = np.clip(people, -_FAR, _FAR + max(self.canvas_size))
        box = self._bounds(people, scores)
        self._clear()
        if box is None:
            return np.zeros((*self.size, 3), np.uint8)
        self._dirty = box
        self._paint_body(people[:, BODY], scores[:, BODY])
        for side in (LEFT_HAND, RIGHT_HAND):
            for points, score in zip(people[:, side], scores[:, side], strict=True):
                self._paint_hand(points, score)
        self._paint_face(people[:, FACE].reshape(-1, 2), scores[:, FACE].reshape(-1))
        return self._sample(box)

    def _clear(self) -> None:
        if self._dirty is not None:
            top, bottom, left, right = self._dirty
            self._canvas[top:bottom, left:right] = 0
            self._dirty = None

    def _bounds(self, people: Float[ndarray, "n 134 2"], scores: Float[ndarray, "n 134"]) -> Box | None:
        """Return the painted rectangle of the canvas, extended to the sampling grid; None if nothing is painted."""
        drawn = scores > 0
        drawn[:, FEET] = False
        points = people[drawn]
        if not len(points):
            return None
        margin = 8 * max(self.unit, 1.0)
        box: list[int] = []
        for axis in (1, 0):
            pixels, length = self.size[axis ^ 1], self.canvas_size[axis ^ 1]
            low, high = points[:, axis].min() - margin, points[:, axis].max() + margin
            if high <= 0 or low >= length:
                return None
            # enlarging interpolates across block edges, so then the whole length is one block
            block = length // math.gcd(length, pixels) if length >= pixels else length
            start = max(0, int(low) // block * block)
            box += [start, min(length, -(-(int(high) + 1) // block) * block)]
        return box[0], box[1], box[2], box[3]

    def _sample(self, box: Box) -> UInt8[ndarray, "height width 3"]:
        import cv2

        top, bottom, left, right = box
        (rows, columns), (height, width) = self.canvas_size, self.size
        part = self._canvas[top:bottom, left:right]
        if self.canvas_size != self.size:
            target = (width * (right - left) // columns, height * (bottom - top) // rows)
            shrink = cv2.INTER_LINEAR if self.released else cv2.INTER_AREA
            part = cv2.resize(part, target, interpolation=shrink)
        out = np.zeros((height, width, 3), np.uint8)
        y, x = height * top // rows, width * left // columns
        out[y : y + part.shape[0], x : x + part.shape[1]] = part
        return out

    def _paint_body(self, points: Float[ndarray, "n 18 2"], scores: Float[ndarray, "n 18"]) -> None:
        import cv2

        ends, score = points[:, LIMBS], scores[:, LIMBS]  # n limbs 2 (xy)
        if self.released:
            # At exactly the threshold, joints are not drawn but limbs are; they end in the very last point.
            ends = np.where((score == VISIBLE)[..., None], points[-1, -1], ends)
        drawn = (score >= VISIBLE).all(-1)
        colours = np.trunc(BODY_COLOURS[: len(LIMBS)] * score.prod(-1)[..., None])
        # Dimmed here, not on the canvas: limbs overwrite each other and are not blended.
        colours = np.trunc(np.minimum(colours, 255) * DIMMING)
        polygons = _released_limbs(ends) if self.released else _smooth_limbs(ends, self._radius(4.0))
        shift = 0 if self.released else _SHIFT
        rgb = colours.tolist()
        for limb, n in np.argwhere(drawn.T).tolist():
            cv2.fillConvexPoly(self._canvas, polygons(n, limb), rgb[n][limb], cv2.LINE_8, shift)
        joints = np.trunc(BODY_COLOURS * scores[..., None]).swapaxes(0, 1)
        seen = scores.T > VISIBLE
        self._paint_discs(points.swapaxes(0, 1)[seen], 4.0, joints[seen])

    def _paint_hand(self, points: Float[ndarray, "21 2"], score: Float[ndarray, " 21"]) -> None:
        import cv2

        seen = self._inside(points) & (score > 0)
        colours = BONE_COLOURS * np.trunc(score[BONES].prod(-1) * 255)[:, None]
        thickness = 2 if self.released else max(1, round(2 * self.unit))
        ends, shift = self._fixed(points)
        for (a, b), colour, both in zip(
            BONES.tolist(), colours.tolist(), np.all(seen[BONES], -1).tolist(), strict=True
        ):
            if both:
                cv2.line(self._canvas, ends[a], ends[b], colour, thickness, cv2.LINE_8, shift)
        joints = np.zeros((len(points), 3))
        joints[:, 0] = np.trunc(score * 255)
        self._paint_discs(points[seen], 4.0, joints[seen])

    def _paint_face(self, points: Float[ndarray, "m 2"], score: Float[ndarray, " m"]) -> None:
        seen = self._inside(points) & (score > 0)
        self._paint_discs(points[seen], 3.0, np.trunc(score[seen] * 255)[:, None].repeat(3, 1))

    def _paint_discs(self, points: Float[ndarray, "m 2"], radius: float, colours: Float[ndarray, "m 3"]) -> None:
        import cv2

        centres, shift = self._fixed(points)
        size = int(radius) if self.released else round(self._radius(radius) * (1 << shift))
        for centre, colour in zip(centres, colours.tolist(), strict=True):
            cv2.circle(self._canvas, centre, size, colour, -1, cv2.LINE_8, shift)

    def _radius(self, radius: float) -> float:
        # OpenCV also paints the pixels on the outline, half a pixel more on each side, as on the large canvas.
        return max((radius + 0.5) * self.unit - 0.5, 0.25)

    def _inside(self, points: Float[ndarray, "m 2"]) -> ndarray:
        # The released code skips hand and face points in or before the first row and column.
        return np.asarray((np.trunc(points) > 0).all(-1))

    def _fixed(self, points: Float[ndarray, "m 2"]) -> tuple[list[list[int]], int]:
        """Convert to fixed-point coordinates for OpenCV. Also returns their number of fractional bits."""
        if self.released:
            return points.astype(np.int64).tolist(), 0
        # OpenCV's pixel centres are at integers: 0.5 here is 0 there
        return np.rint((points - 0.5) * (1 << _SHIFT)).astype(np.int64).tolist(), _SHIFT


def _released_limbs(ends: Float[ndarray, "n limbs 2 2"]) -> Callable[[int, int], Int[ndarray, "points 2"]]:
    """Return a function that computes limb polygons as the released code does, rounded to pixels and degrees."""
    import cv2

    offset = ends[..., 0, :] - ends[..., 1, :]
    centre = ends.mean(-2).astype(np.int64).tolist()
    half = (np.hypot(offset[..., 0], offset[..., 1]) / 2).astype(np.int64).tolist()
    angle = np.degrees(np.arctan2(offset[..., 1], offset[..., 0])).astype(np.int64).tolist()

    def polygon(n: int, limb: int) -> Int[ndarray, "points 2"]:
        return np.asarray(cv2.ellipse2Poly(centre[n][limb], (half[n][limb], 4), angle[n][limb], 0, 360, 1))

    return polygon


def _smooth_limbs(
    ends: Float[ndarray, "n limbs 2 2"], half_width: float
) -> Callable[[int, int], Int[ndarray, "points 2"]]:
    """Compute all limbs as ellipses with sub-pixel precision. Returns a function that looks up a limb's polygon."""
    half = (ends[..., 0, :] - ends[..., 1, :]) / 2
    length = np.maximum(np.hypot(half[..., 0], half[..., 1]), half_width)[..., None]
    along = half / np.maximum(np.hypot(half[..., 0], half[..., 1]), 1e-9)[..., None]
    across = np.stack([-along[..., 1], along[..., 0]], -1) * half_width
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)[:, None]
    centre = ends.mean(-2)[..., None, :] - 0.5
    outline = centre + np.cos(turn) * (along * length)[..., None, :] + np.sin(turn) * across[..., None, :]
    points = np.rint(outline * (1 << _SHIFT)).astype(np.int32)
    return lambda n, limb: points[n, limb]


def draw_pose(
    xy: Float[ndarray, "*people 134 2"], confidence: Float[ndarray, "*people 134"], size: tuple[int, int], **style: Any
) -> UInt8[ndarray, "height width 3"]:
    """Draw one pose as an RGB picture of `size` (height, width), with `xy` in its pixels. `style`: see `PoseDrawer`."""
    return PoseDrawer(size, **style).draw(xy, confidence)


MAX_THREADS, FRAMES_PER_THREAD = 4, 2
"""Limits on threads: each needs a canvas of 25 MB, and half of the work holds the GIL."""


class DrawnPoses:
    """Pose frames that are drawn on demand: `[a:b]` returns uint8 (b - a, height, width, 3).

    Args:
        poses: poses in pixels of the pictures.
        drawer: drawer to use.
        threads: number of threads that share the frames of a slice, each with its own canvas; None uses up to 4.
    """

    def __init__(self, poses: PoseSequence, drawer: PoseDrawer, threads: int | None = None) -> None:
        self.poses, self.drawer = poses, drawer
        self.threads = min(cores(), MAX_THREADS) if threads is None else threads
        self._drawers, self._lock = [drawer], threading.Lock()

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, index: slice, /) -> Frames:
        indices = range(*index.indices(len(self)))
        with self._lock:  # a drawer has one canvas
            return np.stack(self._frames(indices))

    def _frames(self, indices: range) -> list[Frame]:
        """Draw frames in parallel, with a canvas per thread."""
        threads = min(self.threads, len(indices) // FRAMES_PER_THREAD)
        if threads < 2:
            return self._draw(self.drawer, indices)
        while len(self._drawers) < threads:
            self._drawers.append(self.drawer.clone())
        with ThreadPoolExecutor(threads) as pool:
            drawn = list(pool.map(self._draw, self._drawers, [indices[i::threads] for i in range(threads)]))
        return [drawn[i % threads][i // threads] for i in range(len(indices))]

    def _draw(self, drawer: PoseDrawer, indices: range) -> list[Frame]:
        return [drawer.draw(self.poses.xy[i], self.poses.confidence[i]) for i in indices]
