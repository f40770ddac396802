"""Numbers computed piece by piece equal those of whole clips; conventional metrics equal those of published code."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from numpy import ndarray

from evaluation_clips import frames
from mimicmotion.evaluation.metrics import measures, pixels, temporal
from mimicmotion.evaluation.metrics.poses import detection_size, enlarged, pose_numbers, torso_length
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence
from mimicmotion.settings.metrics import METRICS

TRUE, MADE = frames(3, count=9), frames(3, 6.0, count=9)
WARPING, OVERFLOW, FIELD_SSIM = measures.EXACT["warping"][0], measures.FIELD["psnr"][1], measures.FIELD["ssim"][0]
Kind = Callable[[], measures.Measure | measures.Flicker]


def absolute_error(output: ndarray, target: ndarray) -> float:
    total = sum(abs(int(x) - int(y)) for x, y in zip(output.ravel(), target.ravel(), strict=True))
    return total / output.size / 255


def streamed(kind: Kind, output: ndarray, target: ndarray, *cuts: int) -> dict[str, float]:
    m = kind()
    ends = [0, *cuts, len(output)]
    chunks = [(output[a:b], target[a:b]) for a, b in pairwise(ends)]
    assert list(measures.run_measures(chunks, [m])) == ends[1:]
    return m.result()


@pytest.mark.parametrize("cuts", [(), (1,), (3, 4, 8)])
@pytest.mark.parametrize(
    ("kind", "whole"),
    [
        (measures.EXACT["psnr"][0], pixels.psnr),
        (measures.EXACT["l1"][0], absolute_error),
        (measures.EXACT["ssim"][0], pixels.ssim),
        (measures.Flicker, temporal.background_flicker),
        (WARPING, lambda a, b: temporal.warping_errors(a, b)[:, 0].mean()),
        (measures.FIELD["psnr"][0], lambda a, b: pixels.frame_psnr(a, b).mean()),
    ],
)
def test_pieces_give_the_number_of_the_whole(kind: Kind, whole: Callable, cuts: tuple) -> None:
    got, *_ = streamed(kind, MADE, TRUE, *cuts).values()
    assert got == pytest.approx(float(whole(MADE, TRUE)), rel=1e-9)


def test_conventional_metrics_match_published_code() -> None:
    a, b = MADE[:1], TRUE[:1]
    wrapped = ((a.astype(int) - b) % 256) ** 2 % 256  # what uint8 makes of it
    want = 20 * math.log10(255 / math.sqrt(wrapped.mean()))
    assert streamed(OVERFLOW, a, b)["psnr_overflow"] == pytest.approx(want)
    assert want > 24  # whatever the frames are: a wrapped square is at most 255
    assert streamed(OVERFLOW, b, b)["psnr_overflow"] == 100
    l1 = streamed(measures.FIELD["l1"][0], a, b)["l1_field"]
    assert l1 * a.shape[1] * a.shape[2] / 255 == pytest.approx(absolute_error(a, b))
    assert streamed(FIELD_SSIM, b, b)["ssim_field"] == pytest.approx(1)
    assert 0 < streamed(FIELD_SSIM, a, b)["ssim_field"] < 1


def test_what_is_undefined_is_nan() -> None:
    assert math.isnan(streamed(measures.Flicker, MADE[:1], TRUE[:1])["flicker"])
    assert math.isnan(streamed(WARPING, MADE[:1], TRUE[:1])["warping_error"])
    everywhere = np.stack([np.full_like(TRUE[0], 60 * i) for i in range(4)])  # nothing stands still
    nothing = streamed(measures.Flicker, MADE[:4], everywhere)
    assert math.isnan(nothing["flicker"])
    assert nothing["flicker_share"] == 0


def test_less_than_the_truth_is_not_better() -> None:
    noisy = frames(3, 3.0, count=9)
    frozen, same = np.repeat(noisy[:1], 9, 0), streamed(measures.Flicker, noisy, noisy)
    assert same["flicker_distance"] == 0
    assert same["flicker_share"] > 0.01
    still = streamed(measures.Flicker, frozen, noisy)
    assert still["flicker"] == 0
    assert still["flicker_distance"] == pytest.approx(same["flicker"])
    assert streamed(WARPING, noisy, noisy)["warping_distance"] == 0
    assert streamed(WARPING, frozen, noisy)["warping_distance"] > 0
    assert METRICS["flicker_distance"].better == METRICS["warping_distance"].better == "lower"
    describing = ("flicker", "warping_error", "jerkiness", "jerkiness_ratio", "seam")
    assert {METRICS[m].arrow for m in describing} == {""}


def test_pose_numbers_of_a_shifted_figure() -> None:
    rng = np.random.default_rng(0)
    xy = rng.uniform(20, 80, (4, NUM_POINTS, 2)).astype(np.float32)
    truth = PoseSequence(xy, np.ones((4, NUM_POINTS), np.float32), (100, 100), 10.0)
    shift = 0.2 * torso_length(truth)
    moved = PoseSequence(xy + np.float32([shift, 0]), truth.confidence * np.float32(0.9), (100, 100), 10.0)
    got = pose_numbers(moved, truth)
    assert got["pose_error_body"] == pytest.approx(0.2, abs=1e-4)
    assert got["pck_face"] == got["pck_body"] == 0
    share = np.mean([0.1 * np.ptp(f[:18], axis=0).max() >= shift for f in xy])  # a fifth of a torso, a tenth of a box
    assert got["pck_box_body"] == share
    assert got["missing_left_hand"] == 0
    assert got["hand_confidence"] == pytest.approx(0.9)
    assert pose_numbers(truth, truth)["pck_body"] == 1


def test_small_frames_are_enlarged_for_the_estimator() -> None:
    assert detection_size((48, 32)) == (192, 128)
    assert detection_size((300, 200)) == (300, 200)
    assert next(enlarged(TRUE, (48, 32))).shape == (192, 128, 3)


def test_lpips_in_pieces_and_on_the_range_of_the_field() -> None:
    import torch

    from mimicmotion.evaluation.metrics.pixels import lpips
    from mimicmotion.evaluation.networks.lpips import Lpips

    torch.manual_seed(0)
    network = Lpips("alex").eval()
    for head in network.heads:
        torch.nn.init.uniform_(head)
    a, b = MADE[:3], TRUE[:3]
    got = streamed(lambda: measures.lpips_mean(network), a, b, 2)
    assert got == {"lpips_alex": pytest.approx(lpips(a, b, network=network).mean(), rel=1e-5)}
    field = streamed(lambda: measures.lpips_mean(network, field=True), a, b)
    x, y = (torch.from_numpy(z.transpose(0, 3, 1, 2) / np.float32(255)) for z in (a, b))
    with torch.inference_mode():
        want = float(network(x, y).mean())  # pictures in 0..1, as they are
    assert field == {"lpips_alex_field": pytest.approx(want, rel=1e-4)}
    assert want != pytest.approx(got["lpips_alex"], rel=1e-3)
