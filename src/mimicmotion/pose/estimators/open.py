"""Open a pose estimator by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mimicmotion.errors import ConfigError, WeightsError
from mimicmotion.pose.estimators.base import Person, PoseEstimator
from mimicmotion.settings import PoseOptions, person_choice

ESTIMATORS = ("holistic", "dwpose")


def open_estimator(
    name: str = "holistic",
    *,
    person: Person = "largest",
    threads: int | None = None,
    device: str = "auto",
    detector_path: str | Path | None = None,
    pose_path: str | Path | None = None,
    static: bool = False,
) -> PoseEstimator:
    """Open a pose estimator.

    Args:
        name: "holistic" (bundled, works offline) or "dwpose" (needs the user's ONNX files).
        person: person to follow if there are several; see `Person`.
        threads: CPU threads; None lets onnxruntime decide.
        device: "auto", "cpu" or "cuda".
        detector_path: YOLOX person detector, e.g. yolox_l.onnx (dwpose only).
        pose_path: whole-body network, e.g. dw-ll_ucoco_384.onnx (dwpose only).
        static: treat frames as unrelated pictures, and detect people in each (holistic only).

    Raises:
        ConfigError: the name or the device is unknown, or a path is missing or unexpected.
    """
    if name not in ESTIMATORS:
        raise ConfigError(f"pose estimator {name!r}", " or ".join(ESTIMATORS), "choose one of these")
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {device!r} for poses", "auto, cpu or cuda", "choose one of these")
    if name == "holistic":
        if detector_path or pose_path:
            raise ConfigError("model files with the holistic estimator", "no model files", "omit them, or use dwpose")
        from mimicmotion.pose.estimators.holistic import HolisticEstimator

        return HolisticEstimator(person=person, threads=threads, device=device, static=static)
    if not detector_path or not pose_path:
        raise ConfigError(
            f"dwpose with detector {detector_path} and pose network {pose_path}",
            "two ONNX files",
            "pass detector_path (yolox_l.onnx) and pose_path (dw-ll_ucoco_384.onnx)",
        )
    from mimicmotion.pose.estimators.dwpose import DWPoseEstimator

    return DWPoseEstimator(detector_path, pose_path, person=person, threads=threads, device=device)


def choose_estimator(options: PoseOptions, trained_with: str | None) -> tuple[str, list[str]]:
    """Choose the pose estimator. Returns its name and notes for the user.

    It is the requested one, else dwpose if its files are given, else the one that the model was trained with. If dwpose
    was chosen only because of the model and cannot be downloaded, holistic is used instead.
    """
    from mimicmotion.weights.registry import fetch

    given = "dwpose" if options.detector or options.pose_model else None
    chosen = options.estimator or given or trained_with or "holistic"
    if chosen == "dwpose" and not (options.estimator or given):
        try:
            fetch("dwpose")
        except WeightsError as e:
            note = (
                f"the model was trained with poses by dwpose, which is not available ({e.got}): using "
                "holistic, so hands may be worse; run `mimicmotion weights fetch dwpose`, or set --estimator holistic"
            )
            return "holistic", [note]
    return chosen, []


def find_estimator(options: PoseOptions, threads: int | None = None) -> Callable[..., PoseEstimator]:
    """Return a function that opens the chosen estimator, with `static=True` for the reference picture.

    Model files are located or downloaded now, to fail early.
    """
    detector, pose_model = options.detector, options.pose_model
    if options.estimator == "dwpose" and not (detector and pose_model):
        from mimicmotion.weights.registry import fetch

        folder = fetch("dwpose")
        detector, pose_model = detector or folder / "yolox_l.onnx", pose_model or folder / "dw-ll_ucoco_384.onnx"

    def open_chosen(static: bool = False) -> PoseEstimator:
        return open_estimator(
            options.estimator or "holistic",
            person=person_choice(getattr(options, "picture_person", "largest") if static else options.person),
            threads=threads,
            device=options.pose_device,
            detector_path=detector,
            pose_path=pose_model,
            static=static,
        )

    return open_chosen
