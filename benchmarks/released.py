"""Our exact tier against the published code's procedure, end to end: `python benchmarks/released.py`.

The published code's PROCEDURE is rebuilt here from diffusers' U-Net and decoder and parts of this package: whole
2160-pixel canvases are drawn and downsampled, all pose frames are in memory as float tensors, PoseNet runs again for
every tile in every step, the conditional pass follows the unconditional one, cross-attention is computed in full,
chunks of 8 frames are decoded with hard cuts, and all frames are collected before they are encoded. Ours is the job
`mimicmotion generate` in fusion mode "released", so that both do the same work; `tests/integration/test_released.py`
checks that their results agree (1e-5). Poses are given: estimating them is the same on both sides and is not timed.

The model is SVD's classes at a fifth of their width with random weights; at 384x256 its operations are distributed as
in the published model at 1024x576 (spatial convolutions 29%, feed-forward along time 22%, spatial attention 17%,
...). `--vae svd` decodes with an autoencoder of SVD's shape, which then determines the peak memory on its own. `--model
real --device cuda` runs the published model's own shapes with random weights, at 1024x576 in float16, in tiles of 72
frames. Each run is a separate process, so that neither inherits the other's memory; the sides alternate. Prints one
JSON line. Takes about 10 minutes on an idle core (--quick: 1); with --log FILE it can be stopped and resumed. --profile
runs each side once and breaks the time down by kind of operation.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from drawing import cpu_model, dancer, draw_plainly
from mimicmotion.backbones.svd.backbone import SVDBackbone
from mimicmotion.backbones.svd.checkpoint import Components, config_of
from mimicmotion.backbones.svd.decode import decode_float, to_uint8
from mimicmotion.backbones.svd.unet import UNet
from mimicmotion.backbones.svd.vae import Autoencoder
from mimicmotion.diffusion.schedule import initial_scale
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.settings import FusionConfig, GenerateConfig

SIZE = (384, 256)
TILE, OVERLAP = 16, 6
REAL_SIZE, REAL_TILE = (576, 1024), 72
KINDS = {
    "matrix products": ("addmm", "mm", "bmm", "_linear_pointwise"),
    "convolutions": ("mkldnn_convolution", "slow_conv3d_forward", "_slow_conv2d_forward", "convolution"),
    "copies": ("copy_", "cat", "clone", "index", "fill_", "upsample_nearest2d", "pixel_shuffle"),
    "activations, sums": (
        *("gelu", "silu", "silu_", "mul", "mul_", "add", "add_", "div", "lerp", "lerp_", "sub", "addcmul", "clamp"),
        *("sum", "mean", "sigmoid", "round"),
    ),
    "norms": ("native_layer_norm", "native_group_norm"),
}
"""Kinds of PyTorch's operations, for --profile; everything that attention calls counts as attention."""
SIDES = ("released", "ours")


@dataclass(frozen=True, slots=True)
class Setup:
    """What both sides run.

    Attributes:
        model: "mid" (a fifth of the published width) or "real".
        vae: for "mid": "patches" (relatively as cheap as decoding in the published model) or "svd".
        device: "cpu" or "cuda".
        size: (height, width).
        tile: frames of a tile, including the reference slot.
        overlap: frames that two tiles share, counted as the published code does.
        frames: number of frames of the video.
        steps: steps of Euler's method.
        threads: CPU threads.
        compile: whether our side compiles its blocks.
        profile: whether to break the time down by kind of operation.
    """

    model: str = "mid"
    vae: str = "patches"
    device: str = "cpu"
    size: tuple[int, int] = SIZE
    tile: int = TILE
    overlap: int = OVERLAP
    frames: int = 15
    steps: int = 4
    threads: int = 1
    compile: bool = False
    profile: bool = False


def synchronize() -> None:
    """Wait for the GPU, if one is used."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Watch:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        synchronize()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


# --- the published code's procedure
# ---------------------------------------------------------------------------------------


def diffusers_decoder(vae: Autoencoder) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that decodes the latents of a clip with diffusers' autoencoder and the same weights."""
    from diffusers import AutoencoderKLTemporalDecoder

    known = {k: v for k, v in vae.config.items() if k != "patch_size"}
    with torch.device("meta"):
        theirs: Any = AutoencoderKLTemporalDecoder.from_config(known)
    theirs.load_state_dict(vae.state_dict(), assign=True)
    theirs.eval()

    @torch.inference_mode()
    def decode(latents: torch.Tensor) -> torch.Tensor:
        z = (latents.to(theirs.device) / known["scaling_factor"]).to(theirs.dtype)
        frames = theirs.decode(z, num_frames=len(z)).sample
        return torch.nn.functional.pixel_shuffle(frames, vae.patch_size).float()

    return decode


@torch.inference_mode()
def released_latents(
    pipe: MimicMotionPipeline,
    image: ndarray,
    reference: PoseSequence,
    poses: PoseSequence,
    steps: int,
    seed: int,
    watch: Watch,
    tiles: tuple[int, int] = (TILE, OVERLAP),
    network: Callable[[UNet], Any] | None = None,
) -> torch.Tensor:
    """Denoise the reference slot and the video in the published order; returns (1, frames + 1, channels, h, w).

    `network` wraps our U-Net in the network to call; None means `diffusers_unet`.
    """
    assert isinstance(pipe.backbone, SVDBackbone)
    size: tuple[int, int] = image.shape[:2]
    device, unet = pipe.device, (network or diffusers_unet)(pipe.backbone.unet)
    recipe = pipe.recipe(
        len(poses),
        reference_slot=True,
        fusion=FusionConfig(mode="released", segment_frames=tiles[0], overlap_frames=tiles[1]),
        num_inference_steps=steps,
    )
    noise = pipe.draw_noise(recipe, size, seed=seed)
    with watch("draw"):
        everyone = [(reference.xy[0], reference.confidence[0]), *zip(poses.xy, poses.confidence, strict=True)]
        pictures = [draw_plainly(xy, confidence, size) for xy, confidence in everyone]
        pose = torch.stack([torch.from_numpy(p).permute(2, 0, 1).float() / 127.5 - 1 for p in pictures])[None]
    with watch("encode"):
        told = pipe.encode(image, pictures[1][None])  # for the picture only: its pose features are not used
    with watch("denoise"):
        x = noise.latents.to(device) * initial_scale(recipe.sigmas)
        guidance = recipe.guidance.float().to(device)
        frames = x.shape[1]
        for sigma, sigma_next in zip(recipe.sigmas[:-1].tolist(), recipe.sigmas[1:].tolist(), strict=True):
            scaled = x / (sigma**2 + 1) ** 0.5
            c_noise = torch.tensor(0.25 * np.log(sigma), dtype=torch.float32, device=device)
            total, weight = torch.zeros_like(x), torch.zeros(frames, device=device)
            for rows in recipe.plan.segments:
                index = list(rows)
                slots = torch.arange(len(index), device=device) + 0.5
                tent = torch.minimum(slots, len(index) - slots) * 2 / len(index)
                features = pipe.backbone.pose_net(pose[:, index].to(device, pipe.dtype))
                without = run_unet(unet, scaled[:, index], c_noise, told, None)
                with_all = run_unet(unet, scaled[:, index], c_noise, told, features)
                scale = guidance[index].view(1, -1, 1, 1, 1)
                guided = without + scale * (with_all - without)
                total[:, index] += tent.view(1, -1, 1, 1, 1) * guided
                weight[index] += tent
            v = total / weight.view(1, -1, 1, 1, 1)
            x0 = x / (sigma**2 + 1) - v * (sigma / (sigma**2 + 1) ** 0.5)
            x = x + (x - x0) / sigma * (sigma_next - sigma)
    return x


def diffusers_unet(unet: UNet) -> Any:
    """Diffusers' network with the same weights."""
    from diffusers import UNetSpatioTemporalConditionModel

    with torch.device("meta"):
        plain: Any = UNetSpatioTemporalConditionModel.from_config(config_of(unet))
    plain.load_state_dict(unet.state_dict(), assign=True)
    return plain.eval()


def run_unet(unet: Any, x: torch.Tensor, c_noise: torch.Tensor, told: Any, pose: Any) -> torch.Tensor:
    """Run one pass; without pose features, the picture is left out as well."""
    latents, embedding = told.image_latents, told.image_embeddings
    if pose is None:
        latents, embedding = torch.zeros_like(latents), torch.zeros_like(embedding)
    sample = torch.cat([x, latents.expand(-1, x.shape[1], -1, -1, -1)], dim=2).to(unet.dtype)
    hook = unet.conv_in.register_forward_hook(lambda _m, _i, out: out if pose is None else out + pose.flatten(0, 1))
    out = unet(sample, c_noise, embedding.to(unet.dtype), added_time_ids=told.added_time_ids, return_dict=False)[0]
    hook.remove()
    return out.float()


def run_released(pipe: MimicMotionPipeline, config: GenerateConfig) -> dict[str, float]:
    """Run the whole job in the published order; returns seconds per stage."""
    from mimicmotion.generate.inputs import find_poses, prepare
    from mimicmotion.runtime.progress import finish
    from mimicmotion.video.writer import open_writer

    assert isinstance(pipe.backbone, SVDBackbone)
    size = (pipe.backbone.settings["height"], pipe.backbone.settings["width"])
    found = prepare(config, finish(find_poses(config)), size)
    watch, steps, tile, overlap = Watch(), config.num_inference_steps, config.segment_frames, config.overlap_frames
    if steps is None or tile is None or overlap is None:
        raise ValueError("steps, frames of a tile and overlap are needed")
    inputs = (found.picture, found.reference, found.aligned)
    latents = released_latents(pipe, *inputs, steps, config.seed, watch, (tile, overlap))
    with watch("decode"):
        decode = diffusers_decoder(pipe.backbone.vae)
        decoded = decode_float(pipe.backbone.vae, latents[0], 8, released=True, decode=decode)
        frames = np.stack([to_uint8(frame, truncate=True) for frame in decoded])[1:]
    with watch("write"), open_writer(config.output, size, config.fps) as writer:
        for frame in frames:
            writer.write(frame)
    return watch.seconds


# --- our procedure
# --------------------------------------------------------------------------------------------------------


def run_ours(pipe: MimicMotionPipeline, config: GenerateConfig) -> dict[str, float]:
    """Run the job like the command line; returns seconds per stage."""
    from mimicmotion.generate.job import generate
    from mimicmotion.runtime.progress import finish

    seconds = finish(generate(config, pipe)).seconds
    return {stage: spent for stage, spent in seconds.items() if stage not in ("load", "picture", "poses")}


# --- inputs of both ----------------------------------------------------------------------------------------------


def build_pipeline(dtype: torch.dtype = torch.float32, seed: int = 0, vae: str = "patches") -> MimicMotionPipeline:
    """Build narrow SVD networks with random weights (61 M parameters in the U-Net)."""
    from mimicmotion.backbones.svd.image_encoder import ImageEncoder
    from mimicmotion.backbones.svd.posenet import PoseNet
    from mimicmotion.backbones.svd.unet import build_unet

    torch.manual_seed(seed)
    down, up = "CrossAttnDownBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"
    unet = build_unet(
        {
            "in_channels": 8,
            "out_channels": 4,
            "block_out_channels": [64, 128, 256, 256],
            "down_block_types": [down, down, down, "DownBlockSpatioTemporal"],
            "up_block_types": ["UpBlockSpatioTemporal", up, up, up],
            "layers_per_block": 2,
            "cross_attention_dim": 208,
            "num_attention_heads": [1, 2, 4, 4],
            "addition_time_embed_dim": 64,
            "projection_class_embeddings_input_dim": 192,
            "num_frames": TILE,
        }
    )
    # decoding is 4% of the published model's operations, so full resolution would be too expensive here
    patches = {"patch_size": 4, "in_channels": 48, "out_channels": 48, "block_out_channels": [64, 64]}
    svd = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
    autoencoder = Autoencoder({"patches": patches, "svd": svd}[vae])
    encoder = ImageEncoder(
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "projection_dim": 208,
        }
    )
    pose_net = PoseNet(64, (3, 4, 8, 16))
    for p in pose_net.final_proj.parameters():
        torch.nn.init.normal_(p, std=0.5)  # at its initial zero, poses would have no effect
    settings = {"height": SIZE[0], "width": SIZE[1], "guidance_scale": 2.0}
    parts = Components(unet, autoencoder.eval(), encoder.eval(), pose_net.eval(), settings)
    return MimicMotionPipeline(SVDBackbone(parts)).to(dtype=dtype)


def build_real_pipeline(dtype: torch.dtype, device: str, size: tuple[int, int]) -> MimicMotionPipeline:
    """Build the published model's shapes (1.52 B parameters in the U-Net) with random weights."""
    from real_size import pipeline, randomise  # in this folder

    pipe = pipeline(dtype)
    assert isinstance(pipe.backbone, SVDBackbone)
    randomise(pipe, device)
    settings = {"height": size[0], "width": size[1], "guidance_scale": 2.0}
    return MimicMotionPipeline(SVDBackbone(dataclasses.replace(pipe.backbone.parts, settings=settings)))


def plant_poses(folder: Path, frames: int, size: tuple[int, int]) -> tuple[Path, Path]:
    """Write a picture and a pose file; the picture's pose is the first one."""
    from mimicmotion.generate import inputs
    from mimicmotion.pose.files import save_poses
    from mimicmotion.video.picture import write_picture

    xy, confidence = dancer(frames, size)
    poses = PoseSequence(xy.astype(np.float32), confidence.astype(np.float32), size, 15.0, "planted")
    save_poses(poses, folder / "poses.npz")
    write_picture(folder / "person.png", np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    planted = SimpleNamespace(estimate=lambda _: poses[:1])  # for the picture
    inputs.find_estimator = lambda _: lambda static=False: planted  # noqa: ARG005  # pyrefly: ignore[bad-assignment]
    return folder / "person.png", folder / "poses.npz"


@contextmanager
def labelled(module: Any, name: str, label: str) -> Iterator[None]:
    """Label the calls of a function in the profile."""
    plain = getattr(module, name)

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.profiler.record_function(label):
            return plain(*args, **kwargs)

    setattr(module, name, run)
    yield
    setattr(module, name, plain)


def profiled(work: Callable[[], dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Run `work`; returns its result, and seconds of processor time by kind of operation."""
    from torch.profiler import ProfilerActivity, profile

    from mimicmotion.backbones.svd import attention

    with (
        labelled(attention, "attend", "attention"),
        labelled(torch.nn.functional, "scaled_dot_product_attention", "attention"),
        profile(activities=[ProfilerActivity.CPU]) as found,
    ):
        seconds = work()
    spent = dict.fromkeys(["matrix products", "attention", *KINDS, "other operations"], 0.0)
    kinds = {
        f"{space}::{name}": kind for kind, names in KINDS.items() for name in names for space in ("aten", "mkldnn")
    }
    for event in found.events() or ():
        above = event
        while above is not None and above.name != "attention":
            above = above.cpu_parent
        kind = "attention" if above is not None else kinds.get(event.name, "other operations")
        spent[kind] += event.self_cpu_time_total / 1e6
    return seconds, {kind: round(value, 2) for kind, value in spent.items()}


def resident_bytes() -> int:
    """Resident bytes of this process (Linux; 0 elsewhere)."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


def predicted_bytes(pipe: MimicMotionPipeline, config: GenerateConfig, setup: Setup) -> int:
    """The planner's prediction of our side's peak, including weights."""
    from mimicmotion.generate.setup import recipe_for

    assert isinstance(pipe.backbone, SVDBackbone)
    recipe = recipe_for(config, pipe, setup.frames)
    return max(pipe.backbone.plan_run(setup.size, recipe, config, device=pipe.device, predict=True).peaks.values())


def one(side: str, dtype: str, setup: Setup) -> dict[str, Any]:
    """Run one side once, in this process."""
    import resource

    from mimicmotion.backbones.svd.execution.memory import weight_bytes

    if setup.model == "real":
        pipe = build_real_pipeline(getattr(torch, dtype), setup.device, setup.size)
    else:
        pipe = build_pipeline(getattr(torch, dtype), vae=setup.vae).to(setup.device)
        pipe.backbone.settings |= {"height": setup.size[0], "width": setup.size[1]}
    assert isinstance(pipe.backbone, SVDBackbone)
    networks = (pipe.backbone.unet, pipe.backbone.vae, pipe.backbone.image_encoder, pipe.backbone.pose_net)
    on_gpu = setup.device != "cpu"
    program = resident_bytes() - weight_bytes(*networks)  # the interpreter and its libraries
    with tempfile.TemporaryDirectory() as folder:
        picture, video = plant_poses(Path(folder), setup.frames, setup.size)
        config = GenerateConfig(
            picture=picture,
            video=video,
            output=Path(folder) / "out.mp4",
            num_inference_steps=setup.steps,
            fusion="released",
            segment_frames=setup.tile,
            overlap_frames=setup.overlap,
            pose_cache=False,
            device=setup.device,
            compile=setup.compile,
        )

        def work(config: GenerateConfig) -> dict[str, float]:
            return run_ours(pipe, config) if side == "ours" else run_released(pipe, config)

        if on_gpu:  # warm-up: loads and selects kernels, compiles blocks
            work(dataclasses.replace(config, output=Path(folder) / "first.mp4", num_inference_steps=1))
            synchronize()
            torch.cuda.reset_peak_memory_stats()
        before = resource.getrusage(resource.RUSAGE_SELF)
        start, busy = time.perf_counter(), time.process_time()
        seconds, kinds = profiled(lambda: work(config)) if setup.profile else (work(config), {})
        total, busy = time.perf_counter() - start, time.process_time() - busy
        after = resource.getrusage(resource.RUSAGE_SELF)
        predicted = predicted_bytes(pipe, config, setup) if side == "ours" else 0
    found: dict[str, Any] = {
        "seconds": total,
        "processor_seconds": busy,
        "system_seconds": after.ru_stime - before.ru_stime,  # of these: mainly clearing pages
        "stages": seconds,
        "peak_mib": after.ru_maxrss / 1024,
        "taken_mib": after.ru_maxrss / 1024 - program / 2**20,  # of the peak: weights and computed tensors
        "predicted_mib": predicted / 2**20,  # the planner's, of the same; of the GPU's memory if one is used
        "kinds": kinds,
    }
    return found | ({"gpu_peak_mib": torch.cuda.max_memory_allocated() / 2**20} if on_gpu else {})


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the runs of one side."""
    stages = {s: round(statistics.median(r["stages"].get(s, 0.0) for r in runs), 2) for s in runs[0]["stages"]}
    names = ("seconds", "processor_seconds", "system_seconds")
    total = {k: round(statistics.median(r[k] for r in runs), 2) for k in names}
    spread = [round(f(r["seconds"] for r in runs), 2) for f in (min, max)]
    kinds = [k for k in ("peak_mib", "taken_mib", "predicted_mib", "gpu_peak_mib") if k in runs[0]]
    memory = {k: round(max(r[k] for r in runs)) for k in kinds}
    found = {**total, "seconds_from_to": spread, "stages": stages, **memory}
    return found | ({"kinds": runs[0]["kinds"]} if runs[0]["kinds"] else {})


def take_turns(kinds: list[tuple[str, str]], setup: Setup, repeats: int, file: Path | None) -> dict[Any, list[Any]]:
    """All runs by side and format, each from a separate process or from the log."""
    known = file.read_text().splitlines() if file and file.exists() else []
    settings = json.dumps(dataclasses.asdict(setup))
    logged = {(row["side"], row["dtype"], row["turn"], row["of"]): row["run"] for row in map(json.loads, known)}
    runs: dict[tuple[str, str], list[Any]] = {kind: [] for kind in kinds}
    environment = os.environ | {"OMP_NUM_THREADS": str(setup.threads)}
    for turn in range(repeats):
        for kind in kinds:
            run = logged.get((*kind, turn, settings))
            if run is None:
                argv = [sys.executable, __file__, "--one", *kind, settings]
                done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                run = json.loads(done.stdout.splitlines()[-1])
                if file:
                    row = {"side": kind[0], "dtype": kind[1], "turn": turn, "of": settings, "run": run}
                    with file.open("a") as log:
                        log.write(json.dumps(row) + "\n")
            runs[kind].append(run)
    return runs


def run_one(side: str, dtype: str, settings: str) -> None:
    """Main function of a process: one run, printed as one line."""
    values = json.loads(settings)
    values["size"] = tuple(values["size"])
    setup = Setup(**values)
    torch.set_num_threads(setup.threads)
    sys.stdout.write(json.dumps(one(side, dtype, setup)) + "\n")


def arguments() -> tuple[argparse.Namespace, Setup]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, help="frames of the video; default: 15, with the real model 71")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", choices=["mid", "real"], default="mid", help="real: 1.52 B parameters")
    parser.add_argument("--vae", choices=["patches", "svd"], default="patches", help="svd: of SVD's shape")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--dtypes", nargs="+", choices=["float32", "bfloat16", "float16"], help="formats to run each side in"
    )
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--tile", type=int, help="frames of a tile; default: 16, with the real model 72")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of our side")
    parser.add_argument("--quick", action="store_true", help="one repeat, one step, one tile")
    parser.add_argument("--profile", action="store_true", help="one run of each side: time by kind of operation")
    parser.add_argument("--log", type=Path, help="log of finished runs, which are not repeated")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.steps = 1, 1
    if options.profile:
        options.repeats = 1
    # on some processors the published procedure is slower in bfloat16 than in float32, so both are shown
    options.dtypes = options.dtypes or (["float32", "bfloat16"] if options.device == "cpu" else ["float16"])
    real = options.model == "real"
    tile = options.tile or (REAL_TILE if real else TILE)
    size = tuple(options.size) if options.size else REAL_SIZE if real else SIZE
    setup = Setup(
        model=options.model,
        vae=options.vae,
        device=options.device,
        size=size,
        tile=tile,
        overlap=min(OVERLAP, tile // 2),
        frames=options.frames or tile - 1,
        steps=options.steps,
        threads=options.threads,
        compile=options.compile,
        profile=options.profile,
    )
    return options, setup


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        run_one(*sys.argv[2:])
        return
    options, setup = arguments()
    kinds = [(side, dtype) for dtype in options.dtypes for side in SIDES]
    runs = take_turns(kinds, setup, options.repeats, options.log)
    found = {f"{side}_{dtype}": summary(runs[side, dtype]) for side, dtype in kinds}
    pairs = [(dtype, dtype) for dtype in options.dtypes] + [(d, options.dtypes[0]) for d in options.dtypes[1:]]

    def ratio(ours: str, released: str, what: str) -> float:
        return round(found[f"released_{released}"][what] / found[f"ours_{ours}"][what], 2)

    row = {
        "bench": "released_profile" if setup.profile else "released",
        **dataclasses.asdict(setup),
        "ratio": {
            f"{ours}_over_released_{released}": {w: ratio(ours, released, w) for w in ("seconds", "processor_seconds")}
            for ours, released in pairs
        },
        **found,
        "repeats": options.repeats,
        "cores": os.cpu_count(),
        "cpu": cpu_model(),
        "gpu": torch.cuda.get_device_name() if setup.device == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
