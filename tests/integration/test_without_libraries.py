"""The package runs where diffusers and transformers, which only tests compare it with, are not installed."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("diffusers", "transformers", "accelerate", "peft", "torchvision"):
            raise ModuleNotFoundError(f"asked for {name}", name=name)

sys.meta_path.insert(0, Refuse())
import numpy as np
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.guidance.limb_warp import WarpedPoses

pipe = MimicMotionPipeline.from_pretrained()
size = pipe.backbone.settings["height"], pipe.backbone.settings["width"]
frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
out = pipe(frames[0], WarpedPoses(frames, frames), frames[0], num_inference_steps=1).frames
assert np.asarray(out).shape == frames.shape
"""


def test_a_generation_by_the_bundled_model() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
