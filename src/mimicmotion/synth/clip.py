"""Clips and stills of synthetic people with their exact poses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.pose import hands
from mimicmotion.pose.keypoints import LEFT_HAND, RIGHT_HAND, PoseSequence
from mimicmotion.synth.bvh import Mocap
from mimicmotion.synth.camera import Camera, move_camera, zoomed_background
from mimicmotion.synth.figure import BLINK, MOUTH, SHANK, SIDE, solve
from mimicmotion.synth.keypoints import confidences, depth_tolerance, keypoints
from mimicmotion.synth.motion import choose_motion, motion_params
from mimicmotion.synth.person import Person, floor_shadows, make_person
from mimicmotion.synth.primitives import CLOSED_EYE, INNER_MOUTH, OPEN_MOUTH, WIDE

SOURCE = "mimicmotion.synth"
SEEN_SHARE = 0.3  # of a hand's points
SHUTTER = 0.5  # of the time between frames
_SPARE_SECONDS = 3.0  # of the motion before and after the clip, where the reference may come from


@dataclass(frozen=True)
class SynthClip:
    """A clip of one synthetic person and a reference picture of the same person in the same place.

    Attributes:
        frames: the clip.
        poses: exact positions in pixels, confidence as a detector would give it.
        reference_frame: the person in another pose.
        reference_pose: its pose, one frame.
        visible: which points are inside of the frame and not hidden, whatever their confidence.
    """

    frames: UInt8[ndarray, "frames height width 3"]
    poses: PoseSequence
    reference_frame: UInt8[ndarray, "height width 3"]
    reference_pose: PoseSequence
    visible: Bool[ndarray, "frames 134"]

    @property
    def hand_boxes(self) -> tuple[Float32[ndarray, "frames 2 4"], Bool[ndarray, "frames 2"]]:
        """Boxes (left, top, right, bottom; pixels) of left and right hand, and whether each hand is seen.

        The boxes hold the hand's 21 exact points and the padding of `mimicmotion.pose.hands`; they may reach beyond
        the frame. A hand is seen if 30 % of its points are visible: from the side, half of them lie behind the others.
        """
        boxes, _ = hands.hand_boxes(self.poses.xy, self.poses.confidence)
        seen = np.stack([self.visible[:, h].mean(1) >= SEEN_SHARE for h in (LEFT_HAND, RIGHT_HAND)], 1)
        return boxes.astype(np.float32), seen


def render_clip(
    seed: int,
    num_frames: int,
    size: tuple[int, int] = (224, 128),
    fps: float = 15.0,
    motion: str | Mocap | None = None,
    *,
    person_seed: int | None = None,
    framing: str | None = None,
    camera_motion: bool = False,
    camera_zoom: float = 0.0,
    motion_blur: int = 0,
    supersample: int = 2,
) -> SynthClip:
    """Render a clip; the same arguments give the same pixels in every process on one machine.

    Args:
        seed: decides everything that is not given; any integer >= 0.
        num_frames: frames of the clip, at least 1.
        size: (height, width) in pixels.
        fps: frames per second.
        motion: a name of `mimicmotion.synth.motion.MOTIONS` or a recording from `load_bvh`; by chance if None.
        person_seed: the person, clothes, place, framing and light; `seed` if None. Clips of one `person_seed`
            (and size) with other seeds show the same person in other motions.
        framing: 'full' or 'upper'; by the person's chance (65 % full) if None.
        camera_motion: the camera drifts and shakes a little.
        camera_zoom: it also zooms in and out, up to 1 + this (0..1); the reference is not enlarged.
        motion_blur: each frame is the mean of so many moments while the shutter is open, which is half of the time
            between frames; 0 or 1: a single moment. Rendering takes so many times longer. Keypoints are those of the
            middle; the reference is sharp.
        supersample: samples per pixel along each axis.

    Raises:
        InputError: a value out of range, or numba is missing.
    """
    _check(seed, num_frames, size, fps, supersample)
    if not 0 <= camera_zoom <= 1 or not 0 <= motion_blur <= 64:
        got = f"camera_zoom={camera_zoom!r}, motion_blur={motion_blur!r}"
        raise InputError(got, "0 to 1, and 0 to 64 moments", "correct the value")
    person = make_person(seed if person_seed is None else person_seed, size, framing)
    rng = np.random.default_rng([seed, 2])
    name = choose_motion(rng)
    params, reference = _params(rng, motion or name, num_frames, fps)
    camera = move_camera(rng, num_frames, size[0], fps, pan=camera_motion, zoom=camera_zoom).then(Camera.still(1))
    params = np.concatenate([params, reference])
    frames, poses, visible = _render(person, rng, params, num_frames, size, fps, camera, supersample, motion_blur)
    return SynthClip(frames[:-1], poses[:num_frames], frames[-1], poses[num_frames:], visible[:num_frames])


def render_still(
    seed: int,
    size: tuple[int, int] = (1024, 576),
    *,
    motion: str | Mocap | None = None,
    framing: str | None = None,
    supersample: int = 4,
) -> tuple[UInt8[ndarray, "height width 3"], PoseSequence]:
    """One picture of a person (the one that `render_clip(seed, ...)` shows) and its pose.

    Args:
        seed: any integer >= 0.
        size: (height, width) in pixels.
        motion: what the person is doing; by chance if None.
        framing: 'full' or 'upper'; by chance if None.
        supersample: samples per pixel along each axis.
    """
    _check(seed, 1, size, 15.0, supersample)
    person = make_person(seed, size, framing)
    rng = np.random.default_rng([seed, 3])
    name = choose_motion(rng)
    params, _ = _params(rng, motion or name, 1, 15.0)
    frames, poses, _ = _render(person, rng, params, 1, size, 15.0, Camera.still(1), supersample)
    return frames[0], dataclasses.replace(poses, fps=0.0)


def _check(seed: int, num_frames: int, size: tuple[int, int], fps: float, supersample: int) -> None:
    for name, value, low in (("seed", seed, 0), ("num_frames", num_frames, 1), ("supersample", supersample, 1)):
        if int(value) != value or value < low:
            raise InputError(f"{name}={value!r}", f"an integer >= {low}", f"correct {name}")
    if len(size) != 2 or min(size) < 16:
        raise InputError(f"size={size!r}", "(height, width), both >= 16", "give the size of the frames in pixels")
    if not 0 < fps < 1000:
        raise InputError(f"fps={fps!r}", "0 < fps < 1000", "give the frames per second")


def _params(rng: np.random.Generator, motion: str | Mocap, num_frames: int, fps: float) -> tuple[ndarray, ndarray]:
    """Motion parameters of the clip and of the reference: the same motion at another time, or another motion."""
    spare = int(_SPARE_SECONDS * fps)
    times = np.arange(num_frames + spare) / fps
    start = int(rng.integers(spare + 1))
    whole = motion.window(rng, times) if isinstance(motion, Mocap) else motion_params(motion, rng, times)
    other = motion_params(choose_motion(rng), rng, times[: spare + 1])
    pick = rng.random(2)
    reference = whole[int(pick[1] * len(whole))] if pick[0] < 0.5 else other[int(pick[1] * len(other))]
    return whole[start : start + num_frames], reference[None]


def _render(
    person: Person,
    rng: np.random.Generator,
    params: ndarray,
    in_time: int,
    size: tuple[int, int],
    fps: float,
    camera: Camera,
    supersample: int,
    blur: int = 0,
) -> tuple[ndarray, PoseSequence, ndarray]:
    """Frames, poses and what is visible; only the first `in_time` frames follow one another in time."""
    frames, points, hidden = _moment(person, params, size, camera, supersample)
    if blur > 1:
        frames[:in_time] = _blurred(person, params[:in_time], size, camera, supersample, blur)
    parts = [slice(0, in_time), slice(in_time, len(params))]
    confidence = np.concatenate([confidences(rng, points[p], hidden[p], size, person.unit, fps) for p in parts])
    poses = PoseSequence(points[..., :2].astype(np.float32), confidence.astype(np.float32), size, fps, SOURCE)
    return frames, poses, ~hidden & (confidence > 0)


def _moment(
    person: Person, params: ndarray, size: tuple[int, int], camera: Camera, supersample: int
) -> tuple[ndarray, ndarray, ndarray]:
    """Sharp frames, their keypoints in pixels and depth, and which of them are hidden."""
    from mimicmotion.synth.render import render

    body = person.body
    rot, pos = solve(body, params)
    mouth = params[:, MOUTH]
    signals = {
        OPEN_MOUTH: mouth,
        INNER_MOUTH: np.maximum(mouth - 1, 0.02),
        CLOSED_EYE: params[:, BLINK],
        WIDE: _skirt_width(body.girth, pos),
    }
    inverse, forward, centre, shape = person.primitives.in_pixels(rot, pos, person.to_pixels, person.origin, signals)
    points = keypoints(body, rot, pos, params[:, MOUTH], params[:, BLINK]) @ person.to_pixels.T + person.origin
    blobs = floor_shadows(person, pos)
    for moved in (centre, points, blobs):  # the camera's shift moves all that stands before it
        moved[..., :2] -= camera.pan[:, None]
    table, textures, light, ground = person.primitives.table, person.look.textures, person.light, person.background
    if not camera.zooms:
        frames, behind = render(
            inverse, forward, centre, shape, table, textures, light, ground, blobs, camera.pan, size, supersample,
            person.unit, points,
        )  # fmt: skip
        return frames, points, behind > depth_tolerance(body) * person.unit
    zoom = camera.zoom[:, None, None]
    middle = np.array([0.5 * size[1], 0.5 * size[0], 0.0])
    centre, points = middle + zoom * (centre - middle), middle + zoom * (points - middle)
    blobs[..., :2] = middle[:2] + zoom * (blobs[..., :2] - middle[:2])
    blobs[..., 2:4] *= zoom
    inverse, forward = inverse / zoom[..., None], forward * zoom[..., None]
    frames, behind = np.empty((len(params), *size, 3), np.uint8), np.empty(points.shape[:2])
    for k in range(len(params)):  # one by one, as each has a scale and a background of its own
        one, scale = slice(k, k + 1), float(camera.zoom[k])
        seen = zoomed_background(ground, camera.pan[k], scale)
        frames[one], behind[one] = render(
            inverse[one], forward[one], centre[one], shape[one], table, textures, light, seen, blobs[one],
            np.zeros((1, 2)), size, supersample, person.unit * scale, points[one],
        )  # fmt: skip
    return frames, points, behind > depth_tolerance(body) * person.unit * zoom[..., 0]


def _blurred(
    person: Person, params: ndarray, size: tuple[int, int], camera: Camera, supersample: int, blur: int
) -> UInt8[ndarray, "frames height width 3"]:
    """Means over moments while the shutter is open, evenly before and after each frame's own."""
    n = len(params)
    total = np.zeros((n, *size, 3), np.float32)
    for k in range(blur):
        time = SHUTTER * ((k + 0.5) / blur - 0.5) + np.arange(n)
        moved = Camera(_between(camera.pan[:n], time), _between(camera.zoom[:n], time))
        total += _moment(person, _between(params, time), size, moved, supersample)[0]
    return np.round(total / blur).astype(np.uint8)


def _between(values: Float64[ndarray, "n ..."], time: Float64[ndarray, " m"]) -> Float64[ndarray, "m ..."]:
    """Values at times counted in frames, on straight lines that go on before the first and after the last frame."""
    if len(values) == 1:
        return np.repeat(values, len(time), axis=0)
    left = np.clip(np.floor(time).astype(int), 0, len(values) - 2)
    share = (time - left).reshape(-1, *[1] * (values.ndim - 1))
    return values[left] * (1 - share) + values[left + 1] * share


def _skirt_width(girth: float, pos: ndarray) -> ndarray:
    """How much wider a skirt gets when the knees part."""
    apart = np.sqrt(((pos[:, SHANK] - pos[:, SHANK + SIDE]) ** 2).sum(-1))
    return np.clip(0.75 + 1.8 * apart / girth, 1.0, 1.7)
