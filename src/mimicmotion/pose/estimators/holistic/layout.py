"""Convert the networks' points (33 body, 2 x 21 hand, 468 face) to the 134 points of `mimicmotion.pose.keypoints`.

The definitions differ slightly. The networks place shoulders and hips slightly lower and further inside than OpenPose,
ears at the tragus, and eyes at the middle of the lids. They have no neck; it is set midway between the shoulders, as in
OpenPose's conversion from COCO.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from mimicmotion.pose import keypoints as kp
from mimicmotion.pose.estimators.holistic.networks import BodyPoints, PartPoints

# The networks' body points.
NOSE, L_EYE, R_EYE, L_EAR, R_EAR = 0, 2, 5, 7, 8
L_SHOULDER, R_SHOULDER, L_WRIST, R_WRIST = 11, 12, 15, 16
L_LITTLE, R_LITTLE, L_INDEX, R_INDEX = 17, 18, 19, 20
LEFT_ARM, RIGHT_ARM = (L_WRIST, L_LITTLE, L_INDEX), (R_WRIST, R_LITTLE, R_INDEX)
L_HEEL, R_HEEL, L_TOE, R_TOE = 29, 30, 31, 32

# Our points in the order of `keypoints.BODY`; the neck (1) holds the right shoulder until it is set.
BODY_SOURCE = np.array([0, 12, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7])
# Left big toe, small toe, heel, then right. The small toe is not detected: it gets the big toe's position and
# confidence 0.
FEET_SOURCE = np.array([L_TOE, L_TOE, L_HEEL, R_TOE, R_TOE, R_HEEL])
SMALL_TOES = [1, 4]

# Indices into the 468-point mesh of the 68 iBUG points ("right" is the person's right).
FACE_SOURCE = np.array(
    [
        *[127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356],  # jaw, from the right ear
        *[70, 63, 105, 66, 107, 336, 296, 334, 293, 300],  # right brow, left brow
        *[168, 197, 195, 4, 98, 97, 2, 326, 327],  # bridge of the nose, its lower edge
        *[33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380],  # right eye, left eye
        *[61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181],  # outer lips
        *[78, 81, 13, 311, 308, 402, 14, 178],  # inner lips
    ]
)

HIDDEN = 0.1  # factor for the confidence of an occluded head point
SURE_WRIST = 0.5  # wrist confidence below which a hand may be someone else's
SAME_HAND = 0.35  # two hands closer than this fraction of their size are the same hand


def body_confidence(body: BodyPoints) -> Float32[ndarray, 33]:
    """Compute the confidence of each body point: visibility times heat-map peak, 0..1."""
    return (body.visibility * body.peak).astype(np.float32)


def part_size(part: PartPoints) -> float:
    """Return the longer side of the bounding box of a hand or face, in pixels."""
    return float(np.ptp(part.xy, axis=0).max())


def same_hand(left: PartPoints | None, right: PartPoints | None) -> bool:
    """Return whether both detections show the same hand, which happens when the other one is hidden."""
    if left is None or right is None:
        return False
    distance = float(np.linalg.norm(left.xy - right.xy, axis=1).mean())
    return distance < SAME_HAND * max(part_size(left), part_size(right))


def move_head(xy: Float32[ndarray, "134 2"]) -> None:
    """Move nose, eyes and ears of the body to match the 68 face points, in place."""
    face = xy[kp.FACE]
    xy[kp.NOSE] = face[30]
    for eye, ear, lids in ((kp.R_EYE, kp.R_EAR, face[36:42]), (kp.L_EYE, kp.L_EAR, face[42:48])):
        center = lids.mean(0)
        xy[ear] += center - xy[eye]
        xy[eye] = center


def face_agreement(face: PartPoints, body: BodyPoints) -> float:
    """Compute how well nose and eyes of the face mesh agree with those of the body network, 0..1.

    The mesh's own score is not enough: on drawings it is 1 even for points that miss the face. On real faces, the
    mean distance is up to 0.17 of the face's size.
    """
    mesh = face.xy[FACE_SOURCE]
    centers = np.stack([mesh[30], mesh[36:42].mean(0), mesh[42:48].mean(0)])
    distance = np.linalg.norm(centers - body.xy[[NOSE, R_EYE, L_EYE]], axis=1).mean() / max(part_size(face), 1e-6)
    return float(np.clip((0.5 - distance) / 0.3, 0, 1))


def dim_hidden(xy: Float32[ndarray, "134 2"], confidence: Float32[ndarray, 134], *, face: bool) -> None:
    """Lower the confidence of occluded nose, eyes and ears, in place, since the network's visibility stays high.

    Without a face, the shoulders show whether the person is seen from behind: the right one is then on the right of
    the picture. An ear beyond the nose is on the far side of the head.
    """
    trunk = xy[kp.NECK] - xy[[kp.R_HIP, kp.L_HIP]].mean(0)
    length = max(float(np.hypot(*trunk)), 1e-6)
    left = np.array([-trunk[1], trunk[0]]) / length  # direction to the left of a person who faces the camera
    facing = float((xy[kp.L_SHOULDER] - xy[kp.R_SHOULDER]) @ left) / length  # 0.6 from the front, 0 from the side
    seen = 1.0 if face else float(np.clip((facing + 0.1) / 0.3, 0, 1))
    sure = min(confidence[[kp.R_SHOULDER, kp.L_SHOULDER, kp.R_HIP, kp.L_HIP]].min() / SURE_WRIST, 1.0)
    confidence[[kp.NOSE, kp.R_EYE, kp.L_EYE]] *= 1 - sure * (1 - max(seen, HIDDEN))
    size = max(float(np.ptp(xy[[kp.NOSE, kp.R_EYE, kp.L_EYE, kp.R_EAR, kp.L_EAR]], axis=0).max()), 1e-6)
    for ear, side in ((kp.R_EAR, -1), (kp.L_EAR, 1)):
        offset = side * float((xy[ear] - xy[kp.NOSE]) @ left) / size * (1 if seen > 0.5 else -1)
        confidence[ear] *= float(np.clip(1 + 2 * offset, HIDDEN, 1))


def assemble(
    body: BodyPoints,
    left_hand: PartPoints | None,
    right_hand: PartPoints | None,
    face: PartPoints | None,
    size: tuple[int, int],
) -> tuple[Float32[ndarray, "134 2"], Float32[ndarray, 134]]:
    """Assemble all points as in `mimicmotion.pose.keypoints`, for a frame of `size` (height, width).

    Points outside the frame and of missing parts have confidence 0. All points of a hand or face share its score,
    which is lowered for a hand with an uncertain wrist, and for a face that disagrees with the body's nose and eyes.
    Occluded points of the head get a lower confidence. If a face is found, nose and eyes come from it, and the ears
    move with the eyes: in close-ups the body network is off by 1/40 of the picture.
    """
    xy, confidence = np.zeros((kp.NUM_POINTS, 2), np.float32), np.zeros(kp.NUM_POINTS, np.float32)
    points, trust = np.nan_to_num(body.xy), body_confidence(body)
    xy[kp.BODY], confidence[kp.BODY] = points[BODY_SOURCE], trust[BODY_SOURCE]
    xy[kp.NECK] = (points[L_SHOULDER] + points[R_SHOULDER]) / 2
    confidence[kp.NECK] = min(trust[L_SHOULDER], trust[R_SHOULDER])
    feet = trust[FEET_SOURCE]
    feet[SMALL_TOES] = 0.0
    xy[kp.FEET], confidence[kp.FEET] = points[FEET_SOURCE], feet
    for hand, target, wrist in ((left_hand, kp.LEFT_HAND, L_WRIST), (right_hand, kp.RIGHT_HAND, R_WRIST)):
        xy[target] = points[wrist]
        if hand is not None:
            xy[target], confidence[target] = hand.xy, hand.score * min(1.0, trust[wrist] / SURE_WRIST)
    xy[kp.FACE] = points[0]
    if face is not None:
        agreement = face_agreement(face, body)
        xy[kp.FACE], confidence[kp.FACE] = face.xy[FACE_SOURCE], face.score * agreement
        if agreement > 0.5:
            move_head(xy)
    dim_hidden(xy, confidence, face=face is not None)
    height, width = size
    inside = (xy >= 0).all(1) & (xy[:, 0] < width) & (xy[:, 1] < height)
    return xy, np.where(inside, confidence.clip(0, 1), 0).astype(np.float32)
