"""Rebuild the bundled networks of MediaPipe from the PyPI wheel of mediapipe 0.10.21.

    pip install tflite onnx && python scripts/build_holistic.py

Downloads the wheel (36 MB) and verifies its SHA-256, converts seven of its TFLite networks to ONNX, and writes them
with their licence and origin to src/mimicmotion/assets/holistic. The output is reproducible byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tflite_to_onnx import convert_file

PACKAGE = "mediapipe==0.10.21"
WHEEL = "mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl"
WHEEL_SHA256 = "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3"
LICENSE = "mediapipe-0.10.21.dist-info/LICENSE"
TARGET = Path(__file__).parents[1] / "src" / "mimicmotion" / "assets" / "holistic"
# file below mediapipe/modules to the outputs that are used
NETWORKS = {
    "pose_detection/pose_detection": ("Identity", "Identity_1"),
    "pose_landmark/pose_landmark_full": ("Identity", "Identity_1", "Identity_3"),
    "holistic_landmark/hand_recrop": ("output_crop",),
    "hand_landmark/hand_landmark_full": ("Identity", "Identity_1"),
    "face_detection/face_detection_short_range": ("regressors", "classificators"),
    "face_landmark/face_landmark": ("conv2d_21", "conv2d_31"),
    "selfie_segmentation/selfie_segmentation": ("activation_10",),
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetch_wheel(folder: Path) -> Path:
    """Download the wheel with pip, for any Python version and system."""
    command = [sys.executable, "-m", "pip", "download", PACKAGE, "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--python-version", "311", "--platform", "manylinux_2_28_x86_64", "--dest", str(folder)]
    subprocess.run(command, check=True)
    return folder / WHEEL


def build(wheel: Path, target: Path) -> None:
    """Convert the networks of the wheel into `target`."""
    data = wheel.read_bytes()
    if sha256(data) != WHEEL_SHA256:
        raise SystemExit(f"{wheel} has SHA-256 {sha256(data)}, expected {WHEEL_SHA256}")
    target.mkdir(parents=True, exist_ok=True)
    origin: dict[str, object] = {
        "package": PACKAGE,
        "wheel": {"name": WHEEL, "sha256": WHEEL_SHA256, "from": "https://pypi.org/project/mediapipe/0.10.21/"},
        "license": "Apache-2.0, Copyright The MediaPipe Authors; the text is in LICENSE",
        "changes": "converted from TensorFlow Lite to ONNX by scripts/build_holistic.py; sparse weights filled up, "
        "unused outputs cut",
    }
    files = {}
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        (target / "LICENSE").write_bytes(archive.read(LICENSE))
        for path, outputs in NETWORKS.items():
            member = f"mediapipe/modules/{path}.tflite"
            source = Path(archive.extract(member, folder))
            result = target / f"{source.stem}.onnx"
            convert_file(source, result, outputs)
            files[result.name] = {
                "sha256": sha256(result.read_bytes()),
                "source": member,
                "source_sha256": sha256(source.read_bytes()),
                "outputs": list(outputs),
            }
            print(f"{result.name}: {result.stat().st_size} bytes")
    (target / "ORIGIN.json").write_text(json.dumps(origin | {"files": files}, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--wheel", type=Path, help="the wheel, if it is already here")
    parser.add_argument("--target", type=Path, default=TARGET, help="where the ONNX files go")
    arguments = parser.parse_args()
    if arguments.wheel:
        build(arguments.wheel, arguments.target)
        return
    with tempfile.TemporaryDirectory() as folder:
        build(fetch_wheel(Path(folder)), arguments.target)


if __name__ == "__main__":
    main()
