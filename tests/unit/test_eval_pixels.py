from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics import pixels
from mimicmotion.evaluation.metrics.pixels import (
    frame_psnr,
    frame_ssim,
    hand_psnr,
    hand_region,
    moving_region,
    psnr,
    ssim,
)
from mimicmotion.pose.hands import hand_masks
from mimicmotion.pose.keypoints import LEFT_HAND, NUM_POINTS, PoseSequence


def clips(frames: int = 3, height: int = 24, width: int = 20, seed: int = 0) -> tuple[ndarray, ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, (frames, height, width, 3), np.uint8)
    noise = rng.integers(-40, 41, a.shape)
    return np.clip(a + noise, 0, 255).astype(np.uint8), a


def test_psnr_equals_scikit_image() -> None:
    out, true = clips()
    assert psnr(out, true) == pytest.approx(peak_signal_noise_ratio(true, out, data_range=255), abs=1e-9)
    for k, value in enumerate(frame_psnr(out, true)):
        assert value == pytest.approx(peak_signal_noise_ratio(true[k], out[k], data_range=255), abs=1e-9)


def test_known_values() -> None:
    black, white = np.zeros((2, 16, 16, 3), np.uint8), np.full((2, 16, 16, 3), 255, np.uint8)
    assert psnr(white, black) == 0
    assert psnr(black, black) == pytest.approx(100)
    assert psnr(np.full_like(black, 51), black) == pytest.approx(20 * np.log10(5))  # 255 / 51; no uint8 overflow
    assert ssim(white, white) == 1
    # constant pictures: only the luminance term is left
    assert ssim(white, black) == pytest.approx(0.01**2 / (1 + 0.01**2), rel=1e-6)


def test_mask_counts_only_its_pixels() -> None:
    out, true = clips()
    mask = np.zeros(true.shape[:3], bool)
    mask[1, 2:7, 3:5] = True
    error = (out[1, 2:7, 3:5].astype(float) - true[1, 2:7, 3:5]) / 255
    assert psnr(out, true, mask) == pytest.approx(-10 * np.log10((error**2).mean()))
    assert np.isnan(psnr(out, true, np.zeros_like(mask)))
    whole = np.ones_like(mask)
    assert psnr(out, true, whole) == pytest.approx(psnr(out, true))


def test_ssim_is_that_of_scikit_image_on_grey() -> None:
    out, true = clips(2, 32, 30)
    for k, value in enumerate(frame_ssim(out, true)):
        a, b = (cv2.cvtColor(x[k], cv2.COLOR_RGB2GRAY) for x in (out, true))
        theirs = structural_similarity(
            a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert value == pytest.approx(theirs, abs=2e-3)  # OpenCV rounds its grey to integers
    assert ssim(out, true) == pytest.approx(frame_ssim(out, true).mean())


def test_ssim_equals_naive_double_precision() -> None:
    out, true = clips(1, 13, 12)
    a, b = (x[0].astype(float) @ [0.299, 0.587, 0.114] / 255 for x in (out, true))
    axis = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    kernel = np.outer(axis, axis) / axis.sum() ** 2
    values = []
    for y in range(5, 8):  # whole windows only
        for x in range(5, 7):
            p, q = (v[y - 5 : y + 6, x - 5 : x + 6] for v in (a, b))
            ma, mb = (kernel * p).sum(), (kernel * q).sum()
            va, vb, c = (kernel * p * p).sum() - ma**2, (kernel * q * q).sum() - mb**2, (kernel * p * q).sum() - ma * mb
            values.append((2 * ma * mb + 1e-4) * (2 * c + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    assert ssim(out, true) == pytest.approx(np.mean(values), abs=1e-12)


@given(st.integers(0, 10_000))
def test_float_and_uint8_agree_and_order_does_not_matter(seed: int) -> None:
    out, true = clips(2, 12, 11, seed)
    assert psnr(out / 255, true) == pytest.approx(psnr(out, true), abs=1e-9)
    assert psnr(out, true) == pytest.approx(psnr(true, out), abs=1e-12)
    assert ssim(out, true) == pytest.approx(ssim(true, out), abs=1e-12)
    assert ssim(out, true) <= 1


def test_moving_region() -> None:
    reference = np.full((16, 16, 3), 100, np.uint8)
    target = np.repeat(reference[None], 2, 0)
    target[0, 3, 4, 2] += 26  # just above a tenth of the range
    target[1, 5, 6] += 25  # just below
    assert np.argwhere(moving_region(target, reference)).tolist() == [[0, 3, 4]]
    assert moving_region(target, reference, 0.05).sum() == 2


def test_hand_region_is_the_union_of_reliable_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = np.array([[[1, 2, 4, 5], [3, 4, 6, 20]], [[-5, -5, 99, 99], [0.6, 0, 1.4, 9]]], float)
    reliable = np.array([[True, True], [False, True]])
    monkeypatch.setattr(pixels, "hand_boxes", lambda *_: (boxes, reliable))
    nobody = np.zeros((2, NUM_POINTS), np.float32)
    mask = hand_region(PoseSequence(np.zeros((2, NUM_POINTS, 2), np.float32), nobody, (8, 7)))
    want = np.zeros((2, 8, 7), bool)
    want[0, 2:5, 1:4] = want[0, 4:8, 3:6] = True  # cut at the frame
    assert (mask == want).all()  # the last box holds no pixel centre


def test_hand_region_of_poses_fits_the_loss_mask() -> None:
    rng = np.random.default_rng(1)
    xy = rng.uniform(5, 40, (4, NUM_POINTS, 2)).astype(np.float32)
    confidence = np.full((4, NUM_POINTS), 0.9, np.float32)
    confidence[2, LEFT_HAND.start + 3] = 0.5
    poses = PoseSequence(xy, confidence, (48, 40))
    area = hand_masks(poses, (48, 40))
    mask = hand_region(poses)
    assert (area[mask] > 0).all()
    assert not (mask & (area == 0)).any()
    assert mask[area == 1].all()
    out, true = clips(4, 48, 40)
    assert hand_psnr(out, true, poses) == pytest.approx(psnr(out, true, mask))
    nobody = PoseSequence(xy, np.zeros_like(confidence), (48, 40))
    assert np.isnan(hand_psnr(out, true, nobody))


def test_bad_input_is_named() -> None:
    out, true = clips()
    with pytest.raises(InputError, match="mask"):
        psnr(out, true, np.ones((3, 2, 2), bool))
    with pytest.raises(InputError, match="3 output and 2 target frames"):
        psnr(out, true[:2])
    with pytest.raises(InputError, match="one size"):
        ssim(out, true[:, 1:])
    broken = true / 255
    broken[1, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN or infinity in output, frame 1"):
        psnr(broken, true)
    with pytest.raises(InputError, match=r"-?\d.* to 255"):
        psnr(true.astype(np.float32), true)
    with pytest.raises(InputError, match="int64"):
        psnr(true.astype(np.int64), true)
    with pytest.raises(InputError, match="shape"):
        psnr(true[0], true[0])
    with pytest.raises(InputError, match="not empty"):
        psnr(true[:0], true[:0])
    with pytest.raises(InputError, match="11 pixels"):
        ssim(out[:, :8], true[:, :8])
    with pytest.raises(InputError, match="one size"):
        moving_region(true, true[0, 1:])
