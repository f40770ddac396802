"""The renderer: orthographic ray hits of scaled round cones into a z-buffer, then textures, light and soft shadows.

Every primitive is a round cone (two spheres and the cone between them) or an open cone (a skirt) in a local space of
its own; a matrix per frame takes pixel space there, so one intersection serves ellipsoids, limbs and clothes.
Pixel space: x right, y down, z towards the viewer, all in pixels of the output.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from mimicmotion.synth.raster import fill
from mimicmotion.synth.shading import lighting, place_ground, shade, smooth_light


def render(
    inverse: ndarray,
    forward: ndarray,
    centre: ndarray,
    shape: ndarray,
    table: ndarray,
    textures: ndarray,
    light: ndarray,
    background: ndarray,
    blobs: ndarray,
    shifts: ndarray,
    size: tuple[int, int],
    factor: int,
    unit: float,
    points: ndarray,
) -> tuple[ndarray, ndarray]:
    """Render all the frames of a clip.

    Args:
        inverse: (frames, primitives, 3, 3) pixel space to local space; `forward` its inverse.
        forward: (frames, primitives, 3, 3).
        centre: (frames, primitives, 3) origin of each primitive in pixels.
        shape: (frames, primitives, 3) height and the two radii in local units; radius 0 leaves a primitive out.
        table: (primitives, 31) what does not change: see the columns above.
        textures: (textures, n, n, 3) uint8.
        light: direction, ambient share, tint (7 numbers).
        background: (rows, columns, 3) float32 picture, at least as large as the frame.
        blobs: (frames, k, 5) floor shadows.
        shifts: (frames, 2) shift of the camera over the background, pixels.
        size: (height, width) of the output.
        factor: supersampling.
        unit: pixels of one body height.
        points: (frames, k, 3) pixel positions to be tested against the z-buffer.

    Returns:
        uint8 frames and, for every point, how far behind the visible surface it lies in pixels (negative: in front,
        or nothing there, or outside of the frame).
    """
    frames = np.empty((len(inverse), *size, 3), np.uint8)
    depth = np.empty((size[0] * factor, size[1] * factor))
    ids = np.empty(depth.shape, np.int16)
    ground = np.empty((*size, 3), np.float32)
    lit, level, rough = np.zeros(size), np.zeros(size), np.zeros(size)
    group = np.empty(size, np.int16)
    behind = np.full(points.shape[:2], -1.0)
    for f in range(len(inverse)):
        inv, mid, form = inverse[f], centre[f], shape[f]
        fill(depth, ids, inv, forward[f], mid, form, table, factor)
        place_ground(ground, background, blobs[f], shifts[f])
        lighting(rough, group, level, depth, ids, inv, mid, form, table, light, factor, unit)
        smooth_light(lit, rough, group, level, unit, 0)
        smooth_light(rough, lit, group, level, unit, 1)
        shade(frames[f], ground, rough, group, depth, ids, inv, mid, form, table, textures, light, factor, unit)
        at = np.floor(points[f, :, :2] * factor).astype(np.int64)
        inside = (at >= 0).all(-1) & (at[:, 1] < depth.shape[0]) & (at[:, 0] < depth.shape[1])
        behind[f, inside] = depth[at[inside, 1], at[inside, 0]] - points[f, inside, 2]
    return frames, behind
