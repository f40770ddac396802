"""Clips and stills of synthetic people with their exact poses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.synth.bvh import Mocap
from mimicmotion.synth.figure import BLINK, MOUTH, SHANK, SIDE, solve
from mimicmotion.synth.keypoints import confidences, depth_tolerance, keypoints
from mimicmotion.synth.motion import choose_motion, motion_params
from mimicmotion.synth.person import MARGIN, Person, floor_shadows, make_person
from mimicmotion.synth.primitives import CLOSED_EYE, INNER_MOUTH, OPEN_MOUTH, WIDE

SOURCE = "mimicmotion.synth"
_SPARE_SECONDS = 3.0  # of the motion before and after the clip, where the reference may come from


@dataclass(frozen=True)
class SynthClip:
    """A clip of one synthetic person and a reference picture of the same person in the same place.

    Attributes:
        frames: the clip.
        poses: exact positions in pixels, confidence as a detector would give it.
        reference_frame: the person in another pose.
        reference_pose: its pose, one frame.
    """

    frames: UInt8[ndarray, "frames height width 3"]
    poses: PoseSequence
    reference_frame: UInt8[ndarray, "height width 3"]
    reference_pose: PoseSequence


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
        supersample: samples per pixel along each axis.

    Raises:
        InputError: a value out of range, or numba is missing.
    """
    _check(seed, num_frames, size, fps, supersample)
    person = make_person(seed if person_seed is None else person_seed, size, framing)
    rng = np.random.default_rng([seed, 2])
    name = choose_motion(rng)
    params, reference = _params(rng, motion or name, num_frames, fps)
    params = np.concatenate([params, reference])
    pan = _pan(rng, num_frames, size[0], fps) if camera_motion else np.zeros((num_frames, 2))
    pan = np.concatenate([pan, np.zeros((1, 2))])
    frames, poses = _render(person, rng, params, num_frames, size, fps, pan, supersample)
    return SynthClip(frames[:-1], poses[:num_frames], frames[-1], poses[num_frames:])


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
    frames, poses = _render(person, rng, params, 1, size, 15.0, np.zeros((1, 2)), supersample)
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


def _pan(rng: np.random.Generator, n: int, height: int, fps: float) -> Float64[ndarray, "n 2"]:
    """Shift of the camera in pixels: a slow drift and a small shake, inside of the background's margin."""
    t = np.arange(n)[:, None] / fps
    phase, period = rng.random((3, 2)), rng.uniform(1.0, 4.0, (3, 2))
    size = np.array([0.6, 0.25, 0.1])[:, None] * rng.uniform(0.2, 1.0)
    waves = (
        size[:, None] * np.sin(2 * np.pi * (t / (period[:, None] * [[[2.0]], [[1.0]], [[0.2]]]) + phase[:, None]))
    ).sum(0)
    return waves * MARGIN * height


def _render(
    person: Person,
    rng: np.random.Generator,
    params: ndarray,
    in_time: int,
    size: tuple[int, int],
    fps: float,
    pan: ndarray,
    supersample: int,
) -> tuple[ndarray, PoseSequence]:
    """Frames and poses; only the first `in_time` frames follow one another in time."""
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
        moved[..., :2] -= pan[:, None]
    frames, behind = render(
        inverse, forward, centre, shape, person.primitives.table, person.look.textures, person.light,
        person.background, blobs, pan, size, supersample, person.unit, points,
    )  # fmt: skip
    hidden = behind > depth_tolerance(body) * person.unit
    parts = [slice(0, in_time), slice(in_time, len(params))]
    confidence = np.concatenate([confidences(rng, points[p], hidden[p], size, person.unit, fps) for p in parts])
    poses = PoseSequence(points[..., :2].astype(np.float32), confidence.astype(np.float32), size, fps, SOURCE)
    return frames, poses


def _skirt_width(girth: float, pos: ndarray) -> ndarray:
    """How much wider a skirt gets when the knees part."""
    apart = np.sqrt(((pos[:, SHANK] - pos[:, SHANK + SIDE]) ** 2).sum(-1))
    return np.clip(0.75 + 1.8 * apart / girth, 1.0, 1.7)
