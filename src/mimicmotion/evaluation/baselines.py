"""What a model has to beat: the reference picture held still, and a limb warp without any learning."""

from __future__ import annotations

import numpy as np

from mimicmotion.arrays import Frame
from mimicmotion.errors import InputError
from mimicmotion.pose.guidance.limb_warp import Clip, check_picture, limb_warp

__all__ = ["copy_reference", "limb_warp"]


def copy_reference(reference: Frame, num_frames: int) -> Clip:
    """The reference picture as a clip of `num_frames` frames.

    Raises:
        InputError: not an RGB picture of uint8, or no frames.
    """
    check_picture(reference)
    if num_frames < 1:
        raise InputError(f"num_frames={num_frames}", "at least 1", "give the number of driving frames")
    return np.repeat(np.asarray(reference)[None], num_frames, 0)
