"""Render clips of synthetic people, with ground truth and exact poses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.synth import light
from mimicmotion.synth.assets import load_assets
from mimicmotion.synth.body import normals_of
from mimicmotion.synth.keypoints import confidences, hidden_points, keypoints
from mimicmotion.synth.light import Light, Surface, encode, shade, shade_floor, shadow_map
from mimicmotion.synth.motion import choose_motion, face_actions, motion_params
from mimicmotion.synth.people import Figure, make_figure
from mimicmotion.synth.place import Place, make_place
from mimicmotion.synth.recordings import Mocap
from mimicmotion.synth.rig import Pose, pose_bones
from mimicmotion.synth.view import MARGIN, View, choose_view, move_camera
from mimicmotion.synth.zbuffer import blend, fill, in_world, kernel

SOURCE = "mimicmotion.synth"
_SPARE_SECONDS = 3.0  # additional seconds of motion, from which the reference may be taken
FRAMINGS = ("full", "upper")
SAMPLES = 2  # per pixel along each axis
KEY_MAP, TOP_MAP, FLOOR_CELLS, CELL = 288, 112, 160, 0.26  # sides of shadow maps and floor grid; cell in decimetres
_BANDS = ((0.0, 0.5, 0.15), (0.5, 2.0, 1.0), (2.0, 6.0, 3.5), (6.0, 60.0, 11.0))  # heights of occluders: from, to, mean
_SEEN_DEPTH = 0.3  # depth tolerance for the same point in the reference, decimetres


@dataclass(frozen=True)
class Truth:
    """Ground truth of a clip and its reference picture.

    Attributes:
        clean: the clip without camera noise and compression.
        mask: coverage of each pixel by the person, 0..255.
        depth: distance of the person from the camera in metres; infinite elsewhere.
        flow: displacement (x, y) in pixels from each pixel of the clip to the same point in the reference; on the
            background, only the camera motion.
        in_reference: whether that point is visible in the reference.
        background: each frame without the person and their shadow.
        reference_clean: the reference without noise and compression.
        reference_mask: mask of the reference, 0..255.
    """

    clean: UInt8[ndarray, "frames height width 3"]
    mask: UInt8[ndarray, "frames height width"]
    depth: Float32[ndarray, "frames height width"]
    flow: Float32[ndarray, "frames height width 2"]
    in_reference: Bool[ndarray, "frames height width"]
    background: UInt8[ndarray, "frames height width 3"]
    reference_clean: UInt8[ndarray, "height width 3"]
    reference_mask: UInt8[ndarray, "height width"]


@dataclass(frozen=True)
class SynthClip:
    """A clip of a synthetic person, and a reference picture of the same person in the same place.

    Attributes:
        frames: RGB frames of the clip.
        poses: exact positions in pixels, with simulated detector confidences.
        reference_frame: RGB picture of the person in another pose.
        reference_pose: pose in the reference picture, a single frame.
        visible: whether each point is inside the frame and not occluded, regardless of confidence.
        truth: masks, depth, flow and other ground truth.
    """

    frames: UInt8[ndarray, "frames height width 3"]
    poses: PoseSequence
    reference_frame: UInt8[ndarray, "height width 3"]
    reference_pose: PoseSequence
    visible: Bool[ndarray, "frames 134"]
    truth: Truth


def render_clip(
    seed: int,
    num_frames: int,
    size: tuple[int, int] = (224, 128),
    fps: float = 15.0,
    motion: str | Mocap | None = None,
    *,
    framing: str | None = None,
    camera_motion: bool = False,
) -> SynthClip:
    """Render a clip of a synthetic person. On one machine, the same arguments always give the same pixels.

    Args:
        seed: random seed for everything that the other arguments leave open; any integer >= 0.
        num_frames: number of frames, at least 1.
        size: (height, width) in pixels.
        fps: frames per second.
        motion: a name from `mimicmotion.synth.motion.MOTIONS`, or a recorded motion; random if None.
        framing: 'full' or 'upper'; random for each person (65% full) if None.
        camera_motion: whether the camera drifts and shakes slightly.

    Raises:
        InputError: a value is out of range or unknown, or MakeHuman's data is missing.
    """
    _check(seed, num_frames, size, fps)
    scene = make_scene(seed, size, framing)
    rng = np.random.default_rng([seed, 2])
    name = choose_motion(rng)
    params = _params(rng, motion or name, num_frames, fps)
    pan = np.zeros((num_frames + 1, 2))  # the camera does not move in the reference
    if camera_motion:
        pan[:num_frames] = move_camera(np.random.default_rng([seed, 6]), num_frames, size[0], fps)
    return _render(scene, rng, params, fps, pan)


def _check(seed: int, num_frames: int, size: tuple[int, int], fps: float) -> None:
    for name, value, low in (("seed", seed, 0), ("num_frames", num_frames, 1)):
        if int(value) != value or value < low:
            raise InputError(f"{name}={value!r}", f"an integer >= {low}", f"correct {name}")
    if len(size) != 2 or min(size) < 16:
        raise InputError(f"size={size!r}", "(height, width), both >= 16", "pass the size of the frames in pixels")
    if not 0 < fps < 1000:
        raise InputError(f"fps={fps!r}", "0 < fps < 1000", "pass the frames per second")


def _params(rng: np.random.Generator, motion: str | Mocap, num_frames: int, fps: float) -> Float64[ndarray, "n+1 54"]:
    """Sample motion parameters: a row per frame, then one for the reference, from the same motion or another."""
    spare = int(_SPARE_SECONDS * fps)
    times = np.arange(num_frames + spare) / fps
    start = int(rng.integers(spare + 1))
    long = motion.window(rng, times) if isinstance(motion, Mocap) else motion_params(motion, rng, times)
    other = motion_params(choose_motion(rng), rng, times[: spare + 1])
    pick = rng.random(2)
    reference = long[int(pick[1] * len(long))] if pick[0] < 0.5 else other[int(pick[1] * len(other))]
    return np.concatenate([long[start : start + num_frames], reference[None]])


def _render(
    scene: Scene, rng: np.random.Generator, params: ndarray, fps: float, pan: Float64[ndarray, "n+1 2"]
) -> SynthClip:
    """Render a clip from motion parameters and camera shifts (pixels); the last row of each is for the reference."""
    n, size = len(params) - 1, scene.size
    pose = pose_bones(scene.figure.body, params)
    faces = face_actions(rng, params, np.arange(n + 1) / fps)

    def shoot(k: int) -> Moment:
        return render_moment(scene, pose, k, faces[k], pan[k])

    last, shots = shoot(n), []
    for k in range(n + 1):
        moment = last if k == n else shoot(k)
        clean, frame = develop(scene, moment.picture, rng)
        background = np.clip(np.rint(encode(moment.background)), 0, 255).astype(np.uint8)
        mask = np.rint(255 * moment.cover).astype(np.uint8)
        flow, seen = correspondence(scene, moment, last, pan[k] - pan[n])
        shots.append((frame, clean, mask, moment.depth(), flow, seen, background, moment.points[:, :2], moment.hidden))
    frames, clean, mask, depth, flow, seen, background, points, hidden = map(np.stack, zip(*shots, strict=True))
    parts = slice(n), slice(n, None)  # separately, as the reference is not the next frame of the clip
    confidence = np.concatenate([confidences(rng, points[p], hidden[p], size, scene.unit, fps) for p in parts])
    poses = PoseSequence(points.astype(np.float32), confidence.astype(np.float32), size, fps, SOURCE)
    truth = Truth(clean[:n], mask[:n], depth[:n], flow[:n], seen[:n], background[:n], clean[n], mask[n])
    return SynthClip(frames[:n], poses[:n], frames[n], poses[n:], (~hidden & (confidence > 0))[:n], truth)


@dataclass(frozen=True, eq=False)
class Scene:
    """Person, place and camera shared by all clips with the same seed."""

    figure: Figure
    view: View
    place: Place
    size: tuple[int, int]  # (height, width)
    unit: float  # body height in pixels
    blur: float  # lens blur in pixels
    noise: tuple[float, float]  # standard deviation (0..255) in the dark, and its increase in bright areas
    quality: int  # JPEG quality; 0 for no compression


def make_scene(seed: int, size: tuple[int, int], framing: str | None = None) -> Scene:
    """Sample the person, place and camera for a seed.

    Args:
        seed: any integer >= 0.
        size: (height, width) of the frames.
        framing: 'full' or 'upper'; random (65% full) if None.

    Raises:
        InputError: the framing is unknown, or MakeHuman's data is missing.
    """
    if framing not in (None, *FRAMINGS):
        raise InputError(f"framing={framing!r}", f"one of {FRAMINGS} or None", "choose one of them")
    assets = load_assets()
    rng, figure_rng, place_rng = (np.random.default_rng([seed, 1, k]) for k in range(3))
    sampled = "full" if rng.random() < 0.65 else "upper"
    figure = make_figure(figure_rng, assets, max(size))
    view = choose_view(rng, size, figure.height, framing or sampled)
    place = make_place(place_rng, assets, view, size, int(MARGIN * size[0]) + 1)
    noise = (rng.uniform(0.3, 2.0), rng.uniform(0, 2.5)) if rng.random() < 0.8 else (0.0, 0.0)
    quality = int(rng.integers(55, 96)) if rng.random() < 0.65 else 0
    blur = float(max(rng.normal(0.25, 0.25), 0)) * min(size) / 192
    ends = view.project(np.array([[0.0, 0.0, 0.0], [0.0, figure.height, 0.0]]))
    unit = float(ends[0, 1] - ends[1, 1])
    return Scene(figure, view, place, size, unit, blur, noise, quality)


class Moment(NamedTuple):
    """A rendered frame and its ground truth; the buffers have `SAMPLES` samples per pixel along each axis."""

    picture: Float32[ndarray, "rows columns 3"]  # linear colours
    cover: Float32[ndarray, "rows columns"]  # coverage of each pixel by the person, 0..1
    seen: Float32[ndarray, "n 3"]  # column, row and nearness of all vertices, in samples
    ids: ndarray  # triangle of each sample, -1 for none
    bary: ndarray  # barycentric coordinates in that triangle
    nearness: ndarray  # inverse depth (1 / decimetres) of each sample, 0 for none
    points: Float64[ndarray, "134 3"]  # column, row (pixels) and nearness of the keypoints
    hidden: Bool[ndarray, " 134"]  # whether each keypoint is occluded
    background: Float32[ndarray, "rows columns 3"]  # the place without the person and their shadow

    def depth(self) -> Float32[ndarray, "rows columns"]:
        """Return the depth in metres of the nearest sample of each pixel; infinite outside the person."""
        rows, columns = self.cover.shape
        near = self.nearness.reshape(rows, SAMPLES, columns, SAMPLES).max((1, 3))
        return np.where(near > 0, 0.1 / np.maximum(near, 1e-9), np.inf).astype(np.float32)


def render_moment(scene: Scene, pose: Pose, frame: int, face: dict[str, float], pan: ndarray) -> Moment:
    """Render one frame.

    Args:
        scene: scene with person and place.
        pose: bones in all frames.
        frame: index of the frame.
        face: face actions, 0..1.
        pan: (2,) shift of the picture by camera motion, pixels.
    """
    figure, place, mesh = scene.figure, scene.place, scene.figure.mesh
    rows, columns = scene.size
    view = scene.view.moved((float(pan[0]), float(pan[1])))
    v = figure.pose_vertices(pose, frame, face)
    normal = normals_of(v, mesh.triangles)
    seen = view.project(v).astype(np.float32)
    seen[:, :2] *= SAMPLES
    ids = np.full((rows * SAMPLES, columns * SAMPLES), -1, np.int32)
    nearness, bary = np.zeros(ids.shape, np.float32), np.zeros((*ids.shape, 2), np.float32)
    table = figure.table
    strands = np.ascontiguousarray(table[mesh.material, light.STRAND_U : light.STRAND_V + 1])
    two_sided = table[mesh.material, light.TWO_SIDED] > 0
    fill(seen, mesh.triangles, mesh.cut, nearness, ids, bary, two_sided, mesh.fray, mesh.uv, strands)
    empty = _background(scene, pan)
    background = _floor_shadow(scene, view, v, empty)
    picture, cover = np.empty((rows, columns, 3), np.float32), np.empty((rows, columns), np.float32)
    surface = Surface(mesh, seen, v, normal, figure.occlusion, figure.fold, table, figure.textures)
    key_map = shadow_map(mesh, v, place.key, KEY_MAP, 0.05 + 0.8 * place.softness)
    top_map = shadow_map(mesh, v, np.array([0.05, 1.0, 0.1]), TOP_MAP, 0.8)
    lights = Light(place.key, place.key_colour, place.sky, place.ground, key_map, top_map)
    shade(picture, cover, background, ids, bary, surface, lights, np.array(view.eye, np.float32), SAMPLES)
    points = view.project(keypoints(figure, pose, frame, v))
    points[1, :2] = 0.5 * (points[2, :2] + points[5, :2])  # midpoint in the picture, as estimators define it
    hidden = hidden_points(points, nearness, SAMPLES, figure.height)
    return Moment(picture, cover, seen, ids, bary, nearness, points, hidden, empty)


def _background(scene: Scene, pan: ndarray) -> Float32[ndarray, "rows columns 3"]:
    """Return the rendered place, shifted by camera motion and cropped to the frame."""
    rows, columns = scene.size
    margin, picture = scene.place.margin, scene.place.picture
    if not pan.any():
        return np.ascontiguousarray(picture[margin : margin + rows, margin : margin + columns])
    move = np.array([[1, 0, pan[0] + margin], [0, 1, pan[1] + margin]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, move, (columns, rows), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _floor_shadow(scene: Scene, view: View, v: Float32[ndarray, "n 3"], background: ndarray) -> ndarray:
    """Return the background with the shadows of the person on the floor."""
    place, mesh = scene.place, scene.figure.mesh
    middle = v[:, [0, 2]].mean(0)
    start = (middle - 0.5 * FLOOR_CELLS * CELL).astype(np.float32)
    low = []
    for slant in (place.key[[0, 2]] / place.key[1], np.zeros(2)):
        flat = (v[:, [0, 2]] - v[:, 1:2] * slant - start) / CELL
        near = 1 / (1 + np.maximum(v[:, 1], 0))
        depth = np.zeros((FLOOR_CELLS, FLOOR_CELLS), np.float32)
        fill(np.concatenate([flat, near[:, None]], 1).astype(np.float32), mesh.triangles, mesh.cut, depth)
        low.append(1 / np.maximum(depth, 1e-6) - 1)
    shadow = np.zeros((FLOOR_CELLS, FLOOR_CELLS), np.float32)
    for bottom, top, mid in _BANDS:
        mask = ((low[0] >= bottom) & (low[0] < top)).astype(np.float32)
        shadow += cv2.GaussianBlur(mask, (0, 0), max(place.softness * mid / CELL, 0.6))
    near = cv2.GaussianBlur(np.exp(-low[1] / 0.4).astype(np.float32), (0, 0), 0.35 / CELL)
    wide = cv2.GaussianBlur(np.exp(-low[1] / 4.0).astype(np.float32), (0, 0), 2.2 / CELL)
    ambient = 1 - (1 - 0.92 * near) * (1 - 0.6 * wide)
    key = float(place.key_colour.mean() * place.key[1])
    share = key / (key + float(place.sky.mean()))
    light_left = share * (1 - np.minimum(shadow, 1)) + (1 - share) * (1 - ambient)
    out = np.empty_like(background)
    shade_floor(out, background, light_left, start, CELL, view)
    return out


def develop(
    scene: Scene, picture: Float32[ndarray, "rows columns 3"], rng: np.random.Generator
) -> tuple[UInt8[ndarray, "rows columns 3"], UInt8[ndarray, "rows columns 3"]]:
    """Convert a linear picture to sRGB; return it without and with camera noise and compression."""
    if scene.blur > 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), scene.blur)
    exact = encode(picture)
    clean = np.clip(np.rint(exact), 0, 255).astype(np.uint8)
    dark, light = scene.noise
    out = clean
    if dark or light:
        grain = rng.standard_normal(exact.shape, np.float32)
        grain = 0.8 * grain + 0.5 * cv2.blur(grain, (2, 2))  # correlate noise of neighbouring pixels
        out = np.clip(np.rint(exact + grain * (dark + light * np.sqrt(exact / 255))), 0, 255).astype(np.uint8)
    if scene.quality:
        _, data = cv2.imencode(".jpg", out[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, scene.quality])
        out = np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1])
    return clean, out


@kernel
def _correspond(flow, visible, source, target, triangles, shift):
    """Fill `flow` and `visible`; `shift` is the flow of the background."""
    rows, columns, _ = flow.shape
    high, wide = target.ids.shape
    for i in range(rows):
        for j in range(columns):
            x, y = j + 0.5 + shift[0], i + 0.5 + shift[1]
            flow[i, j, 0], flow[i, j, 1] = x - j - 0.5, y - i - 0.5
            if x >= 0 and y >= 0 and x * SAMPLES < wide and y * SAMPLES < high:
                visible[i, j] = target.ids[int(y * SAMPLES), int(x * SAMPLES)] < 0
            for k in range(SAMPLES * SAMPLES):
                si, sj = i * SAMPLES + k // SAMPLES, j * SAMPLES + k % SAMPLES
                t = source.ids[si, sj]
                if t < 0:
                    continue
                corners = triangles[t, 0], triangles[t, 1], triangles[t, 2]
                w0, w1, w2 = in_world(source.seen, corners, source.bary[si, sj, 0], source.bary[si, sj, 1])
                points = target.seen
                w0, w1, w2 = w0 * points[corners[0], 2], w1 * points[corners[1], 2], w2 * points[corners[2], 2]
                near = w0 + w1 + w2  # barycentric weights for the other picture
                x, y, _ = blend(points, corners, (w0 / near, w1 / near, w2 / near))
                flow[i, j, 0], flow[i, j, 1] = (x - sj - 0.5) / SAMPLES, (y - si - 0.5) / SAMPLES
                visible[i, j] = False
                if x >= 0 and y >= 0 and x < wide and y < high:
                    surface = target.nearness[int(y), int(x)]
                    visible[i, j] = surface > 0 and 1.0 / near - 1.0 / surface < _SEEN_DEPTH
                break


def correspondence(
    scene: Scene, source: Moment, target: Moment, shift: ndarray
) -> tuple[Float32[ndarray, "rows columns 2"], Bool[ndarray, "rows columns"]]:
    """Compute the flow in pixels from each pixel of one frame to the same point in another, and its visibility there.

    Args:
        scene: scene of both frames.
        source: frame whose pixels have the flow.
        target: frame that the flow points to.
        shift: camera motion (pixels) of `source` minus that of `target`.
    """
    flow, visible = np.zeros((*scene.size, 2), np.float32), np.zeros(scene.size, np.bool_)
    _correspond(flow, visible, source, target, scene.figure.mesh.triangles, shift)
    return flow, visible
