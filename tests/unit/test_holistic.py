"""The holistic estimator on small pictures of the repository: people found, no false positives, bad input refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy import ndarray

from mimicmotion.errors import ConfigError, MediaError, PoseError, WeightsError
from mimicmotion.pose import keypoints as kp
from mimicmotion.pose.estimators.base import Person, PoseEstimator
from mimicmotion.pose.estimators.holistic import HolisticEstimator
from mimicmotion.pose.estimators.holistic.estimator import PATIENCE, _State
from mimicmotion.pose.estimators.holistic.networks import Networks
from mimicmotion.pose.estimators.open import find_estimator, open_estimator
from mimicmotion.settings import PoseOptions
from mimicmotion.weights.registry import find_asset

PEOPLE = Path(__file__).parents[1] / "data" / "people"


def read(name: str) -> ndarray:
    return cv2.cvtColor(cv2.imread(str(PEOPLE / f"{name}.jpg")), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def balance() -> list[ndarray]:
    return [read(f"balance_{i:02d}") for i in (0, 3, 6, 9)]


@pytest.fixture(scope="module")
def estimator() -> HolisticEstimator:
    return HolisticEstimator(threads=1, device="cpu")


def seen(confidence: ndarray) -> ndarray:
    return confidence.max(-1) > 0


def test_golden_positions(estimator: HolisticEstimator, balance: list[ndarray], golden: Callable[..., None]) -> None:
    pose = estimator.estimate(balance, fps=20.0)
    portrait = estimator.estimate([read("astronaut")])
    assert pose.fps == 20.0
    assert pose.size == (640, 360)
    body = slice(0, kp.FACE.start)
    # JPEG decoders and convolution kernels differ a little between machines: half a pixel, 0.05 of confidence.
    golden("holistic_positions", rtol=0, atol=0.5, balance=pose.xy[:, body], portrait=portrait.xy[:, kp.FACE])
    golden("holistic_confidence", rtol=0, atol=0.05, balance=pose.confidence, portrait=portrait.confidence)


def test_standing_man_is_upright_and_knows_his_sides(estimator: HolisticEstimator, balance: list[ndarray]) -> None:
    pose = estimator.estimate(balance[:1])
    xy, confidence = pose.xy[0], pose.confidence[0]
    assert (confidence[kp.BODY] > 0.5).all()
    for upper, lower in ((kp.NOSE, kp.NECK), (kp.NECK, kp.R_HIP), (kp.R_HIP, kp.R_KNEE), (kp.L_KNEE, kp.L_ANKLE)):
        assert xy[upper, 1] < xy[lower, 1]
    assert xy[kp.R_SHOULDER, 0] < xy[kp.L_SHOULDER, 0]  # he faces the camera: his right is on our left
    np.testing.assert_allclose(xy[kp.NECK], (xy[kp.R_SHOULDER] + xy[kp.L_SHOULDER]) / 2)
    assert confidence[kp.NECK] == min(confidence[kp.R_SHOULDER], confidence[kp.L_SHOULDER])
    small_toes = [kp.FEET.start + 1, kp.FEET.start + 4]
    assert (confidence[small_toes] == 0).all()


def test_face_lies_on_the_head_of_the_body() -> None:
    raw, _ = next(HolisticEstimator(threads=1)._follow([read("astronaut")]))
    assert raw is not None
    assert raw.face is not None
    assert np.linalg.norm(raw.face.xy[4] - raw.body.xy[0]) < 15  # two networks, one nose


def test_face_of_a_portrait_is_laid_out_as_ibug(estimator: HolisticEstimator) -> None:
    pose = estimator.estimate([read("astronaut")])
    face, confidence = pose.xy[0, kp.FACE], pose.confidence[0, kp.FACE]
    assert (confidence == confidence[0]).all()  # one score for all
    assert confidence[0] > 0.9
    assert face[0, 0] < face[8, 0] < face[16, 0]  # jaw from the person's right to the left, chin in the middle
    assert face[8, 1] == face[:17, 1].max()
    right_eye, left_eye, mouth = face[36:42].mean(0), face[42:48].mean(0), face[48:60].mean(0)
    assert right_eye[0] < face[30, 0] < left_eye[0]
    assert right_eye[1] < face[30, 1] < mouth[1]
    for eye, point in ((right_eye, kp.R_EYE), (left_eye, kp.L_EYE)):
        np.testing.assert_allclose(eye, pose.xy[0, point], atol=1e-3)


def test_points_outside_the_frame_have_no_confidence(estimator: HolisticEstimator) -> None:
    pose = estimator.estimate([read("astronaut")])
    xy = pose.xy[0]
    outside = (xy < 0).any(1) | (xy >= 384).any(1)
    assert outside[kp.L_ANKLE]
    assert (pose.confidence[0, outside] == 0).all()


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (4, 4), (16, 16), (16, 3), (1, 300), (300, 1), (40, 60), (2160, 3840)], ids=str
)
def test_noise_of_any_size_shows_nobody(estimator: HolisticEstimator, size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    pose = estimator.estimate([frame])
    assert (pose.confidence == 0).all()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_frames_show_nobody(estimator: HolisticEstimator, value: int) -> None:
    pose = estimator.estimate([np.full((240, 320, 3), value, np.uint8)] * 3)
    assert (pose.confidence == 0).all()


def test_blotches_show_nobody(estimator: HolisticEstimator) -> None:
    rng = np.random.default_rng(0)
    blotches = [rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(12)]
    pose = estimator.estimate([cv2.resize(b, (480, 320), interpolation=cv2.INTER_CUBIC) for b in blotches])
    assert (pose.confidence == 0).all()


def drawn_girl() -> ndarray:
    """A flat drawing with the proportions of anime: a large head with huge eyes, arms, skirt and legs."""
    picture, line = np.full((768, 512, 3), (200, 225, 245), np.uint8), (60, 40, 50)
    skin, hair, blue = (255, 224, 205), (120, 70, 40), (70, 90, 170)
    shapes = [
        (blue, [(196, 300), (316, 300), (336, 480), (176, 480)]),
        ((150, 40, 60), [(176, 480), (336, 480), (370, 580), (142, 580)]),
        *((skin, [(x, 580), (x + 40, 580), (x + 40, 720), (x, 720)]) for x in (200, 272)),
        *(
            (blue, [(256 + 60 * k, 300), (256 + 140 * k, 480), (256 + 170 * k, 480), (256 + 90 * k, 300)])
            for k in (-1, 1)
        ),
    ]
    for colour, corners in shapes:
        cv2.fillPoly(picture, [np.array(corners)], colour)
        cv2.polylines(picture, [np.array(corners)], isClosed=True, color=line, thickness=2)
    cv2.ellipse(picture, (256, 155), (106, 115), 0, 0, 360, hair, -1)
    cv2.fillPoly(picture, [np.array([(175, 130), (337, 130), (330, 210), (256, 275), (182, 210)])], skin)
    for x in (212, 300):
        for size, colour in (((24, 28), (255, 255, 255)), ((15, 24), (60, 110, 190)), ((8, 14), (10, 10, 30))):
            cv2.ellipse(picture, (x, 188), size, 0, 0, 360, colour, -1)
    cv2.ellipse(picture, (256, 237), (16, 6), 0, 20, 160, (180, 60, 60), 3)
    return picture


@pytest.mark.parametrize("part", [slice(None), slice(20, 330)])
def test_a_flat_drawing_shows_nobody(part: slice) -> None:
    """Better than points that miss it; the user is asked for another picture."""
    confidence = HolisticEstimator(threads=1, static=True).estimate([drawn_girl()[part]]).confidence
    assert not confidence.any()


def test_a_photograph_in_the_style_of_a_cartoon_is_found() -> None:
    photo = cv2.cvtColor(cv2.imread(str(find_asset("demo/astronaut.jpg"))), cv2.COLOR_BGR2RGB)
    smooth = photo
    for _ in range(4):
        smooth = cv2.bilateralFilter(smooth, 9, 40, 9)
    grey = cv2.medianBlur(cv2.cvtColor(smooth, cv2.COLOR_RGB2GRAY), 5)
    lines = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 9, 4)
    cartoon = cv2.bitwise_and(smooth // 40 * 40 + 20, smooth // 40 * 40 + 20, mask=lines)
    poses = HolisticEstimator(threads=1, static=True).estimate([photo, cartoon])
    face = poses.xy[:, kp.FACE]
    assert poses.confidence[1, kp.FACE].min() > 0.9
    assert np.hypot(*(face[1] - face[0]).T).mean() < 0.05 * np.ptp(face[0], axis=0).max()


def test_person_leaves_and_returns(estimator: HolisticEstimator, balance: list[ndarray]) -> None:
    empty = np.full_like(balance[0], 90)
    pose = estimator.estimate([*balance[:2], empty, empty, *balance[2:]])
    assert seen(pose.confidence).tolist() == [True, True, False, False, True, True]


def test_small_person_is_found_by_a_closer_look(estimator: HolisticEstimator, balance: list[ndarray]) -> None:
    canvas = np.full((720, 1280, 3), 120, np.uint8)
    canvas[380:700, 900:1080] = cv2.resize(balance[0], (180, 320), interpolation=cv2.INTER_AREA)
    pose = estimator.estimate([canvas])
    assert seen(pose.confidence).all()
    assert 900 < pose.xy[0, kp.NECK, 0] < 1080


def test_very_large_frames(estimator: HolisticEstimator, balance: list[ndarray]) -> None:
    small = estimator.estimate(balance[:1])
    large = estimator.estimate([cv2.resize(balance[0], (360 * 8, 640 * 8), interpolation=cv2.INTER_LINEAR)])
    sure = small.confidence[0, kp.BODY] > 0.5
    apart = np.linalg.norm(large.xy[0, kp.BODY] / 8 - small.xy[0, kp.BODY], axis=1)
    assert np.median(apart[sure]) < 3


def test_choice_among_several_people(estimator: HolisticEstimator) -> None:
    frame = read("two")

    def neck(person: object) -> ndarray:
        return HolisticEstimator(person=person, threads=1).estimate([frame]).xy[0, kp.NECK]  # type: ignore[arg-type]

    woman, man = neck("largest"), neck((165.0, 240.0))
    assert woman[0] > 280
    assert woman[1] > 330
    assert 140 < man[0] < 200
    assert 150 < man[1] < 240
    assert neck(0)[0] <= man[0]
    with pytest.raises(PoseError, match="person 9"):
        neck(9)


def test_followed_person_stays_the_same(balance: list[ndarray]) -> None:
    frame = read("two")
    pose = HolisticEstimator(person=(165.0, 240.0), threads=1).estimate([frame] * 4)
    assert np.abs(np.diff(pose.xy[:, kp.NECK], axis=0)).max() < 10


@pytest.mark.whole
def test_static_mode_does_not_depend_on_the_order(balance: list[ndarray]) -> None:
    estimator = HolisticEstimator(threads=1, static=True)
    forward, backward = estimator.estimate(balance), estimator.estimate(balance[::-1])
    np.testing.assert_array_equal(forward.xy, backward.xy[::-1])
    np.testing.assert_array_equal(forward.confidence, backward.confidence[::-1])


def test_runs_are_independent_and_repeat(estimator: HolisticEstimator, balance: list[ndarray]) -> None:
    first = estimator.estimate(balance)
    estimator.estimate([read("astronaut")])
    np.testing.assert_array_equal(first.xy, estimator.estimate(balance).xy)


def test_stream_is_lazy(estimator: HolisticEstimator, balance: list[ndarray]) -> None:
    taken = []

    def frames() -> Iterator[ndarray]:
        for i, frame in enumerate(balance):
            taken.append(i)
            yield frame

    next(estimator.estimate_stream(frames()))
    assert taken == [0]


def test_opens_by_name() -> None:
    estimator = open_estimator("holistic", threads=1, device="cpu")
    assert isinstance(estimator, HolisticEstimator)
    assert isinstance(estimator, PoseEstimator)
    assert estimator.provider == "CPUExecutionProvider"


@pytest.mark.parametrize("person", ["left", -1, 1.5, True, (1.0,), (float("nan"), 1.0)], ids=str)
def test_wrong_person_is_refused(person: object) -> None:
    with pytest.raises(ConfigError, match="person"):
        HolisticEstimator(person=person)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
        "x",
    ],
    ids=["grey", "alpha", "empty", "float", "text"],
)
def test_wrong_frames_are_refused(estimator: HolisticEstimator, frame: ndarray) -> None:
    with pytest.raises(MediaError):
        next(estimator.estimate_stream([frame]))


def test_bundled_files_are_as_their_origin_says() -> None:
    folder = files("mimicmotion").joinpath("assets", "holistic")
    origin = json.loads(folder.joinpath("ORIGIN.json").read_text(encoding="utf-8"))
    assert "Apache License" in folder.joinpath("LICENSE").read_text(encoding="utf-8")
    assert {f.name for f in folder.iterdir() if f.name.endswith(".onnx")} == set(origin["files"])
    for name, entry in origin["files"].items():
        assert hashlib.sha256(folder.joinpath(name).read_bytes()).hexdigest() == entry["sha256"]


def test_a_lost_person_is_waited_for(estimator: HolisticEstimator) -> None:
    body = next(estimator._follow([read("two")]))[0].body  # type: ignore[union-attr]
    here = body.next_roi
    other = replace(body, next_roi=replace(here, x=here.x + 3 * here.size))
    choose, just, long_ago = estimator._choose, _State(roi=here), _State(roi=here, frames_lost=PATIENCE + 1)
    assert choose([other], just) is None
    assert choose([other, body], just) is body
    assert choose([other], long_ago) is other
    assert choose([], _State()) is None
    assert HolisticEstimator(person=0, threads=1)._choose([other], long_ago) is None


@pytest.mark.whole
@pytest.mark.parametrize(
    "person", [1, *(pytest.param(p, marks=pytest.mark.slow) for p in ((165.0, 240.0), (100.0, 100.0, 240.0, 460.0)))]
)
def test_the_chosen_person_is_waited_for(person: Person) -> None:
    """The woman is there from the start; the man on the left, who is chosen, comes in the third frame."""
    both = read("two")
    alone = both.copy()
    alone[:, :240] = 90
    if person == 1:  # the second from the left is on the right
        both, alone = both[:, ::-1].copy(), alone[:, ::-1].copy()
    pose = HolisticEstimator(person=person, threads=1).estimate([alone, alone, both, both])
    assert seen(pose.confidence).tolist() == [False, False, True, True]
    neck = pose.xy[2:, kp.NECK, 0]
    assert (np.abs(neck - (both.shape[1] - 170 if person == 1 else 170)) < 30).all()
    assert pose.people[:2].tolist() == [1, 1]
    assert pose.people[2] > 1
    assert pose.people[3] == 0  # people are not counted while someone is followed
    with pytest.raises(PoseError, match="never seen; no frame shows more than 1"):
        HolisticEstimator(person=person, threads=1).estimate([alone] * 2)


def test_missing_cuda_and_missing_network_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigError, match="onnxruntime-gpu"):
        HolisticEstimator(device="cuda")
    with pytest.raises(WeightsError, match="reinstall"):
        Networks(1)._run("nothing", np.zeros((8, 8, 3), np.uint8))


@pytest.mark.whole
def test_people_in_a_picture_are_told_from_parts_of_people(balance: list[ndarray]) -> None:
    """A man with a woman far behind him, cut off by the edge: searching the tiles also finds his legs as a person."""
    pictures = find_estimator(PoseOptions(), threads=1)(static=True)
    assert pictures.estimate(balance).people.tolist() == [2] * len(balance)
    behind = HolisticEstimator(threads=1, static=True, person=0).estimate(balance[:1])
    assert behind.xy[0, kp.NECK, 0] < 40
    assert pictures.estimate([read("astronaut")]).people.tolist() == [1]


def test_people_are_counted(estimator: HolisticEstimator, balance: list[ndarray]) -> None:
    assert [estimator.count_people(frame) for frame in balance] == [1] * len(balance)
    small = cv2.copyMakeBorder(cv2.resize(balance[0], (90, 160)), 20, 300, 20, 500, cv2.BORDER_CONSTANT)
    assert estimator.count_people(small) <= 1
    assert estimator.count_people(np.full((64, 64, 3), 90, np.uint8)) == 0


def test_no_threads_are_refused() -> None:
    with pytest.raises(ConfigError, match="threads=0"):
        HolisticEstimator(threads=0)
