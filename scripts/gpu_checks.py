"""Checks that need a CUDA device, in five minutes: `make gpu`, or `python scripts/gpu_checks.py [--out FILE]`.

Parts, the most valuable first, each in a separate process with its own time limit:

- goldens: the released code's results on small weights (tests/parity/data), CPU against GPU, float32 and float16;
- plans: the published model's size with random weights (72 frames of 576x1024): the plans for 8, 16, 24 and 80 GB, and
  their predicted and actual peaks (torch.cuda.max_memory_allocated) in a guided step and in decoding;
- exact: the exact tier against the published code's procedure, eager and compiled, two denoising steps each;
- decode: 16 frames of 576x1024;
- lora: one LoRA training step at the published size: memory and samples per second.

Needs torch, numpy, safetensors, OpenCV and the checkout; no network, no media libraries. Results are written to the
JSON file as they come, so a part that fails or times out leaves its results so far. The exit status is 1 if a part
failed or a golden does not match. `--small --device cpu` rehearses every part on a CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

GIB = 2**30
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """Where the checks run: on `device`, at the published size or a small one."""

    device: str
    small: bool

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the model's frames."""
        return (64, 64) if self.small else (576, 1024)

    @property
    def frames(self) -> int:
        """Frames of a segment, including the reference slot."""
        return 4 if self.small else 72

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the large model."""
        return torch.float32 if self.device == "cpu" else torch.float16


# --- measuring ------------------------------------------------------------------------------------------------------


def synchronize() -> None:
    """Wait for the GPU, if one is used."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def measured(work: Callable[[], object]) -> Row:
    """Run a call, and return its seconds and, on a GPU, its peak of allocated memory."""
    on_gpu = torch.cuda.is_initialized()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work()
    synchronize()
    row: Row = {"seconds": round(time.perf_counter() - start, 3)}
    return row | ({"peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2)} if on_gpu else {})


def large_pipeline(setup: Setup) -> Any:
    """Build the model with random weights, in the published shapes or (small) at a fifth of the width."""
    if setup.small:
        from released import build_pipeline  # in benchmarks/

        pipe = build_pipeline().to(setup.device)
    else:
        from released import build_real_pipeline  # in benchmarks/

        pipe = build_real_pipeline(setup.dtype, setup.device, setup.size)
    return pipe


# --- parts ----------------------------------------------------------------------------------------------------------


def goldens(setup: Setup) -> Iterator[Row]:
    """Compare with the released code's results, in float32 with the tolerances of tests/parity/data/README.md."""
    from mimicmotion.pipeline import MimicMotionPipeline

    data = ROOT / "tests/parity/data"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for dtype in (torch.float32, torch.float16):
        if setup.device == "cpu" and dtype == torch.float16:
            continue  # a CPU does not compute in this format
        pipe = MimicMotionPipeline.from_pretrained(data / "svd", data / "mimicmotion.safetensors")
        pipe.to(setup.device, dtype)
        for file in sorted((data / "pipeline").glob("*.npz")):
            want = np.load(file)
            latents, frames = golden_run(pipe, want)
            # float16 keeps 11 bits, so it just must not drift too far; float32 must be right
            limit = 1e-4 if dtype == torch.float32 else 0.1 * float(np.abs(want["latents"]).max())
            error = float(np.abs(latents - want["latents"]).max())
            levels = np.abs(frames[want["frames_kept"]].astype(int) - want["frames_uint8"].transpose(0, 2, 3, 1))
            yield {
                "case": file.stem,
                "dtype": str(dtype).removeprefix("torch."),
                "latents_max_error": error,
                "latents_limit": limit,
                "uint8_max": int(levels.max()),
                "uint8_mean": float(levels.mean()),
                "ok": bool(error <= limit and (dtype != torch.float32 or levels.max() <= 1)),
            }


def golden_run(pipe: Any, want: Any) -> tuple[np.ndarray, np.ndarray]:
    """Repeat one published run; returns its final latents and frames."""
    from mimicmotion.diffusion.noise import periodic_noise
    from mimicmotion.settings import FusionConfig

    case = json.loads(str(want["case"]))
    image, poses = want["ref_image"], np.ascontiguousarray(want["pose_uint8"].transpose(0, 2, 3, 1))
    recipe = pipe.recipe(
        len(poses) - 1,
        reference_slot=True,
        fusion=FusionConfig(mode="released", segment_frames=case["tile"], overlap_frames=case["overlap"]),
        num_inference_steps=case["steps"],
        min_guidance_scale=case["gmin"],
        max_guidance_scale=case["gmax"],
        decode_chunk_size=case["chunk"],
    )
    conditioning = pipe.encode(
        image,
        poses[1:],
        poses[0],
        image_noise=torch.from_numpy(want["image_noise"]),
        fps=case["fps"],
        motion_bucket_id=case["bucket"],
        noise_aug_strength=case["aug"],
    )
    noise = periodic_noise(torch.from_numpy(want["init_noise"]), recipe.plan.num_rows)
    *_, last = pipe.denoise(conditioning, noise, recipe)
    frames = np.stack(list(pipe.decode_step(last, recipe)))
    return last.latents.float().cpu().numpy(), frames


def plans(setup: Setup) -> Iterator[Row]:
    """Compare predicted and measured memory of the plans for GPUs of four sizes."""
    from mimicmotion.backbones.svd.execution.levels import plan_execution
    from mimicmotion.backbones.svd.execution.predict import Predictor, Workload
    from mimicmotion.errors import ConfigError
    from mimicmotion.settings import ExecutionOptions

    device = torch.device(setup.device)
    pipe = large_pipeline(setup)
    predictor = Predictor(pipe.backbone, device)
    for budget in (8.0, 16.0, 24.0, 80.0):
        work = Workload(size=setup.size, segment_frames=setup.frames, num_frames=265)
        try:
            plan = plan_execution(predictor, work, int(budget * 1e9), ExecutionOptions())
        except ConfigError as e:
            yield {"budget_gb": budget, "plan": None, "why": str(e), "ok": False}
            continue
        peaks = plan.peaks
        row: Row = {"budget_gb": budget, "plan": plan.describe()}
        row["predicted_gib"] = {stage: round(peaks[stage] / GIB, 2) for stage in ("denoise", "decode")}
        found = plan_run(pipe, plan, setup)
        row |= {f"{stage}_{k}": v for stage, values in found.items() for k, v in values.items()}
        row["stepped_down"] = pipe.backbone.plan != plan
        if setup.device == "cuda":
            near = [abs(found[s]["peak_gib"] * GIB / peaks[s] - 1) <= 0.15 for s in ("denoise", "decode")]
            row["ok"] = all(near) and not row["stepped_down"]
        yield row


def plan_run(pipe: Any, plan: Any, setup: Setup) -> dict[str, Row]:
    """Run one guided step of a segment and decode one clip with a plan, each with one warm-up run."""
    pipe.backbone.configure(plan, torch.device(setup.device))
    conditioning, recipe, noise = told(pipe, setup, setup.frames - 1)

    def step() -> None:
        next(iter(pipe.denoise(conditioning, noise, recipe)))

    def decode() -> None:
        with torch.inference_mode():
            for _ in pipe.decode(noise[0, :8]):
                pass

    found = {}
    for stage, network, work in (("denoise", "unet", step), ("decode", "vae", decode)):
        pipe.backbone.use(network)
        work()  # warm-up: loads and selects kernels
        found[stage] = measured(work)
    return found


def told(pipe: Any, setup: Setup, frames: int, steps: int = 2) -> tuple[Any, Any, torch.Tensor]:
    """Conditioning, recipe and noise for random pictures, with the tiles of the published code."""
    from mimicmotion.settings import FusionConfig

    random = np.random.default_rng(0)
    picture, poses = (random.integers(0, 256, (n, *setup.size, 3), dtype=np.uint8) for n in (1, frames))
    pipe.backbone.use("image_encoder")
    conditioning = pipe.encode(picture[0], poses, poses[0])
    overlap = min(6, setup.frames // 2)
    recipe = pipe.recipe(
        frames,
        reference_slot=True,
        fusion=FusionConfig(mode="released", segment_frames=setup.frames, overlap_frames=overlap),
        num_inference_steps=steps,
        guidance_scale=2.0,
    )
    return conditioning, recipe, pipe.draw_noise(recipe, setup.size, seed=0).latents


class PublishedCalls:
    """Our network, unchunked, behind the interface of diffusers (which the GPU machine need not have)."""

    def __init__(self, unet: Any) -> None:
        self.unet, self.conv_in, self.dtype = unet, unet.conv_in, unet.dtype

    def __call__(self, sample: Any, timestep: Any, context: Any, *, added_time_ids: Any, **_: Any) -> Any:
        """Run the network."""
        return (self.unet(sample, timestep, context, added_time_ids),)


def exact(setup: Setup) -> Iterator[Row]:
    """Compare two denoising steps by the published procedure (with our network) and by ours, eager and compiled."""
    from mimicmotion.backbones.svd.execution.levels import plan_execution
    from mimicmotion.backbones.svd.execution.predict import Predictor, Workload
    from mimicmotion.pose.keypoints import PoseSequence
    from mimicmotion.settings import ExecutionOptions
    from released import (  # in benchmarks/
        Watch,
        dancer,
        released_latents,
    )

    pipe = large_pipeline(setup)
    frames = setup.frames - 1
    xy, confidence = dancer(frames, setup.size)
    poses = PoseSequence(xy.astype(np.float32), confidence.astype(np.float32), setup.size, 15.0, "planted")
    picture = np.random.default_rng(0).integers(0, 256, (*setup.size, 3), dtype=np.uint8)
    tiles = (setup.frames, min(6, setup.frames // 2))

    def released() -> float:
        watch = Watch()
        released_latents(pipe, picture, poses[:1], poses, 2, 0, watch, tiles, PublishedCalls)
        return watch.seconds["denoise"]

    seconds: list[float] = []
    released()  # warm-up: loads and selects kernels
    row = measured(lambda: seconds.append(released()))
    published = seconds[0]
    yield {"side": "published", **row, "denoise_seconds": round(published, 3)}
    for compiled in (False, True):
        work, options = (
            Workload(size=setup.size, segment_frames=setup.frames, num_frames=frames),
            ExecutionOptions(compile=compiled),
        )
        plan = plan_execution(Predictor(pipe.backbone, torch.device(setup.device)), work, None, options)
        pipe.backbone.configure(plan, torch.device(setup.device))
        conditioning, recipe, noise = told(pipe, setup, frames)

        def ours(conditioning: Any = conditioning, recipe: Any = recipe, noise: Any = noise) -> None:
            for _ in pipe.denoise(conditioning, noise, recipe):
                pass

        start = time.perf_counter()
        ours()
        first = time.perf_counter() - start
        row = measured(ours)
        yield {
            "side": "ours, compiled" if compiled else "ours, eager",
            **row,
            "first_seconds": round(first, 1),
            "plan": plan.describe(),
            "speedup": round(published / row["seconds"], 2),
        }


def decode(setup: Setup) -> Iterator[Row]:
    """16 frames, in chunks of 8."""
    pipe = large_pipeline(setup)
    h, w = (side // pipe.backbone.downscale for side in setup.size)
    latents = torch.randn(16, pipe.backbone.vae.config.latent_channels, h, w, device=setup.device)

    def work() -> None:
        with torch.inference_mode():
            for _ in pipe.decode(latents):
                pass

    work()
    yield {"frames": 16, **measured(work)}


def lora(setup: Setup) -> Iterator[Row]:
    """Training steps of the recipe for 24 GB: LoRA of rank 32, bfloat16, gradient checkpointing, 16 frames."""
    from mimicmotion.backbones.svd.execution.options import Execution
    from mimicmotion.settings.training import TrainedConfig
    from mimicmotion.training.networks import DenoiserModel, choose_trained
    from mimicmotion.training.objective import NetworkInput

    pipe = large_pipeline(setup)
    pipe.backbone.unet.float()
    pipe.backbone.pose_net.float()
    model = DenoiserModel(pipe.backbone.unet, pipe.backbone.pose_net)
    frozen: Any = "float32" if setup.device == "cpu" else "half"  # on a CPU, norms do not support mixed formats
    trained = choose_trained(model, TrainedConfig(what="lora", rank=32, frozen=frozen), 0)
    model.unet.set_execution(Execution(checkpointing="blocks"))
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-4)
    slots = 4 if setup.small else 16
    h, w = (side // pipe.backbone.downscale for side in setup.size)
    channels, dim = pipe.backbone.vae.config.latent_channels, pipe.backbone.unet.config.cross_attention_dim
    random = torch.Generator(setup.device).manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, device=setup.device)

    shown = NetworkInput(
        x=draw(1, slots, channels, h, w),
        c_noise=draw(1),
        picture_latents=draw(1, 1, channels, h, w),
        token=draw(1, 1, dim),
        pixels=None,
        poses=draw(1, slots, 3, *setup.size),
        reference_pose=draw(1, 3, *setup.size),
        dropped=torch.zeros(1, 3, dtype=torch.bool, device=setup.device),
        time_ids=draw(1, 3),
    )
    target = draw(1, slots, channels, h, w)

    def step() -> None:
        with torch.autocast(setup.device, torch.bfloat16, enabled=setup.device == "cuda"):
            out = model(shown)
        loss = (out.float() - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    row = measured(step)
    count = sum(p.numel() for p in trained.values())
    yield {
        "slots": slots,
        "trained_millions": round(count / 1e6, 2),
        **row,
        "samples_per_second": round(1 / row["seconds"], 3),
    }


PARTS: dict[str, tuple[Callable[[Setup], Iterator[Row]], int]] = {
    "goldens": (goldens, 45),
    "plans": (plans, 90),
    "exact": (exact, 90),
    "decode": (decode, 30),
    "lora": (lora, 45),
}
"""The function of each part, and its time limit in seconds."""


# --- running --------------------------------------------------------------------------------------------------------


def environment() -> Row:
    """The environment that the numbers were measured in."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"gpu": gpu, "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}


def run_part(name: str, setup: Setup) -> None:
    """Run a part in this process, and print each row as a line."""
    for row in PARTS[name][0](setup):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def rows_of(name: str, setup: Setup, limit: float) -> Iterator[Row]:
    """Run a part in a separate process and yield its rows as they come; after a failure, the last one has the error."""
    argv = [sys.executable, __file__, "--part", name, "--device", setup.device, *["--small"] * setup.small]
    start = time.monotonic()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines: queue.Queue[str | None] = queue.Queue()
    errors: list[str] = []

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    readers = [threading.Thread(target=read), threading.Thread(target=lambda: errors.extend(process.stderr or ()))]
    for reader in readers:
        reader.start()
    try:
        while (line := lines.get(timeout=max(0.0, start + limit - time.monotonic()))) is not None:
            if line.startswith("{"):
                yield json.loads(line)
    except queue.Empty:
        yield {"error": f"stopped after its limit of {limit:.0f} seconds", "ok": False}
    finally:
        if time.monotonic() - start >= limit:
            process.kill()
        code = process.wait()
        for reader in readers:
            reader.join()
    if code > 0:
        yield {"error": "".join(errors[-20:]).strip(), "ok": False}


def main() -> int:
    """Run the parts; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="a small model: a rehearsal")
    parser.add_argument("--out", type=Path, default=Path("gpu_checks.json"), help="the JSON file")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="these parts")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    setup = Setup(options.device, options.small)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device: --device cpu --small rehearses the checks")
    if options.part:
        try:
            run_part(options.part, setup)
        except Exception:
            traceback.print_exc()
            return 1
        return 0
    found: Row = {"environment": environment(), "device": setup.device, "small": setup.small, "parts": {}}
    good = True
    for name in options.only:
        start = time.monotonic()
        part = found["parts"][name] = {"seconds": 0.0, "rows": []}
        limit = 3600 if setup.small else PARTS[name][1]  # a rehearsal may run on a busy CPU
        for row in rows_of(name, setup, limit):
            part["rows"].append(row)
            part["seconds"] = round(time.monotonic() - start, 1)
            good = good and row.get("ok", True)
            options.out.write_text(json.dumps(found, indent=1) + "\n")
            sys.stdout.write(f"{name}: {json.dumps(row)}\n")
            sys.stdout.flush()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
