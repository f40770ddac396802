"""Time saved and error made by each approximate tier, and by each of its features alone: python benchmarks/tiers.py.

Prints one JSON line. The bundled model is used like the published one, with 25 Karras steps and guidance 2 (its default
is one step), and animates held-out synthetic people. Speed-ups are of CPU time on one thread, alternating between
variants on each clip: of denoising, and of encoding, denoising and decoding. Errors are relative to the exact result
with the same noise: PSNR, LPIPS (after `mimicmotion weights fetch lpips-alex`), and pose fidelity: the fraction of body
points whose surroundings in the exact frame are found within a tenth of a torso length of the same position
(`evaluation.metrics.poses.find_patches`; a pose estimator is unstable on this model's noisy frames: it found no one in
a result 67 dB from another). PSNR and pose fidelity to the true frames are also given. Intervals are 95% bootstrap
intervals over clips. --keep names a folder for times and frames, from which a second run continues. --sheet writes a
picture (rows: truth, exact, balanced, fast). Four clips take about 8 minutes.

--released also times whole jobs (with given poses) with the mid-size random model of benchmarks/released.py: the
published code's procedure with 25 steps, and `mimicmotion generate` in each tier, each in a separate process, one after
another. This takes about 6 minutes more; --only-released does nothing else.

--table writes Markdown; --page puts it between the markers of a page (docs/lab/speed-tiers.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import torch
from numpy import ndarray
from PIL import Image

from mimicmotion.backbones.base import Request
from mimicmotion.backbones.svd.backbone import SVDBackbone
from mimicmotion.backbones.svd.execution.memory import weight_bytes
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan
from mimicmotion.backbones.svd.execution.quantize import quantize_weights
from mimicmotion.errors import MimicMotionError
from mimicmotion.evaluation.metrics.intervals import mean_interval
from mimicmotion.evaluation.metrics.pixels import psnr
from mimicmotion.evaluation.metrics.poses import find_patches, pose_fidelity
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.runtime.files import sha256_file
from mimicmotion.settings import SamplingSettings, resolve_tier
from mimicmotion.synth import SynthClip
from mimicmotion.training.bundled import contact_sheet, held_out_clip

FIRST = 7000  # held-out clips of this benchmark alone, on which nothing was tuned
TUNING = 6900  # first of the clips on which the tiers' values were tuned
STEPS, GUIDANCE = 25, 2.0
SHOWN = ("exact", "balanced", "fast")
SHEET_CLIP = 0
Side = Literal["released", "exact", "balanced", "fast"]
SIDES: tuple[Side, ...] = get_args(Side)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant(SamplingSettings):
    """Settings to compare."""

    quantize: str = "none"


REFERENCE = Variant(guidance_scale=GUIDANCE, schedule="karras", num_inference_steps=STEPS)
VARIANTS: dict[str, Variant] = {
    "exact": REFERENCE,
    "10 steps of Euler": Variant(guidance_scale=GUIDANCE, schedule="karras", num_inference_steps=10),
    "10 steps of dpmpp-2m": Variant(
        guidance_scale=GUIDANCE, schedule="karras", num_inference_steps=10, sampler="dpmpp-2m"
    ),
    "ays": Variant(guidance_scale=GUIDANCE, schedule="ays"),
    "guidance_interval": Variant(
        guidance_scale=GUIDANCE, schedule="karras", num_inference_steps=STEPS, guidance_interval=(0.4, 60.0)
    ),
    "guidance_every 2": Variant(
        guidance_scale=GUIDANCE, schedule="karras", num_inference_steps=STEPS, guidance_every=2
    ),
    "block_cache 0.1": Variant(guidance_scale=GUIDANCE, schedule="karras", num_inference_steps=STEPS, block_cache=0.1),
    "block_cache 0.6": Variant(guidance_scale=GUIDANCE, schedule="karras", num_inference_steps=STEPS, block_cache=0.6),
    "int8": Variant(guidance_scale=GUIDANCE, schedule="karras", num_inference_steps=STEPS, quantize="int8"),
    "fp8": Variant(guidance_scale=GUIDANCE, schedule="karras", num_inference_steps=STEPS, quantize="fp8"),
    "balanced": resolve_tier(Variant(speed="balanced", guidance_scale=GUIDANCE), STEPS),  # pyrefly: ignore[bad-assignment]
    "fast": resolve_tier(Variant(speed="fast", guidance_scale=GUIDANCE), STEPS),  # pyrefly: ignore[bad-assignment]
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="model folder; default: the bundled model")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--first", type=int, default=FIRST, help=f"first held-out clip ({TUNING}: those for tuning)")
    parser.add_argument("--variants", nargs="*", help="only these (and exact)")
    parser.add_argument("--plan", action="append", default=[], help='one more: NAME={"num_inference_steps": 8, ...}')
    parser.add_argument("--keep", type=Path, help="folder for times and frames, which are then reused")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--page", type=Path, help="Markdown page whose tables are replaced")
    parser.add_argument("--released", action="store_true", help="also compare whole jobs with the published code")
    parser.add_argument("--only-released", action="store_true", help="only compare whole jobs")
    parser.add_argument("--released-frames", type=int, default=7)
    parser.add_argument("--released-steps", type=int, default=STEPS, help="fewer steps are for a trial")
    parser.add_argument("--released-threads", type=int, default=1, help="with more than one, wall-clock time is shown")
    parser.add_argument("--job", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def generate(pipe: MimicMotionPipeline, clip: SynthClip, plan: Variant, seed: int) -> tuple[ndarray, dict[str, float]]:
    """Generate a clip; returns frames, and CPU seconds of denoising and of all stages (without drawing the poses)."""
    assert isinstance(pipe.backbone, SVDBackbone)
    pipe.backbone.configure(ExecutionPlan(unet=pipe.backbone.unet.execution, guidance_in_one_batch=False))
    poses, reference = pipe.guide(clip.reference_frame, clip.reference_pose, clip.poses)
    request = Request(clip.reference_frame, poses, reference, len(poses), seed)
    start = time.process_time()
    recipe = pipe.recipe(len(poses), reference_slot=True, sampling=plan)
    conditioning = pipe.backbone.encode(request, recipe.sampling)
    encoded = time.process_time()
    *_, state = pipe.denoise(conditioning, pipe.draw_noise(recipe, request.size, seed=seed).latents, recipe)
    denoised = time.process_time()
    frames = np.stack(list(pipe.decode_step(state, recipe, request)))
    return frames, {"denoise": denoised - encoded, "all": time.process_time() - start}


def job(side: Side, frames: int, steps: int) -> dict[str, Any]:
    """Run one whole job in this process: the published code's, or ours in a tier."""
    import tempfile

    import mimicmotion.pipeline
    import released  # in this folder
    from mimicmotion.backbones.svd.execution.deep_features import BlockCache
    from mimicmotion.settings import GenerateConfig

    caches: list[BlockCache] = []

    def counted(*arguments: Any) -> BlockCache:
        caches.append(BlockCache(*arguments))
        return caches[-1]

    mimicmotion.backbones.svd.backbone.BlockCache = counted  # type: ignore[assignment,misc]
    pipe = released.build_pipeline()
    with tempfile.TemporaryDirectory() as folder:
        picture, video = released.plant_poses(Path(folder), frames, released.SIZE)
        config = GenerateConfig(
            picture=picture,
            video=video,
            output=Path(folder) / "out.mp4",
            fusion="released",
            segment_frames=released.TILE,
            overlap_frames=released.OVERLAP,
            device="cpu",
            speed="exact" if side == "released" else side,
            num_inference_steps=steps if side in ("released", "exact") else None,
        )
        start, wall = time.process_time(), time.perf_counter()
        stages = released.run_released(pipe, config) if side == "released" else released.run_ours(pipe, config)
        out: dict[str, Any] = {"cpu": time.process_time() - start, "wall": time.perf_counter() - wall}
    out["stages"] = {k: round(v, 2) for k, v in stages.items()}
    if caches:
        out["passes"] = {"full": caches[0].full, "light": caches[0].light}
    return out


def against_released(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of whole jobs, one after another: the published code's, and ours in each tier."""
    import released

    out: dict[str, Any] = {}
    threads = options.released_threads
    clock = "cpu" if threads == 1 else "wall"  # threads that wait for each other use processor time
    for side in SIDES:
        plan = resolve_tier(
            Variant(speed="exact" if side == "released" else side, guidance_scale=GUIDANCE), options.released_steps
        )
        label = f"{side} {options.released_frames} {options.released_steps} {plan}"
        file = kept_file(options, label + f" {threads} threads" * (threads > 1), ".json")
        if file is not None and file.exists():
            out[side] = json.loads(file.read_text())
        else:
            argv = [sys.executable, __file__, "--job", side, "--released-frames", str(options.released_frames)]
            argv += ["--released-steps", str(options.released_steps)]
            argv += ["--released-threads", str(threads)]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            out[side] = json.loads(done.stdout.splitlines()[-1])
            if file is not None:
                file.write_text(json.dumps(out[side]))
        out[side]["times_as_fast"] = round(out["released"][clock] / out[side][clock], 2)
    found = {"frames": options.released_frames, "size": list(released.SIZE), "steps": options.released_steps}
    found |= {"threads": threads, "clock": clock}
    return found | {"sides": out, "cpu_model": released.cpu_model(), "parameters": "61 M, random"}


def kept_file(options: argparse.Namespace, label: str, suffix: str) -> Path | None:
    """Path at which a measurement is kept; None if they are not kept."""
    if options.keep is None:
        return None
    options.keep.mkdir(parents=True, exist_ok=True)
    return options.keep / f"{hashlib.sha256(label.encode()).hexdigest()[:16]}{suffix}"


def released_markdown(found: dict[str, Any]) -> str:
    kind = {"cpu": "CPU", "wall": "wall-clock"}[found["clock"]]
    lines = [f"| | {kind} time, s | speedup over the published code |", "|---|---|---|"]
    names = {"released": "published code, 25 steps"}
    for side, row in found["sides"].items():
        times = "1" if side == "released" else f"**{row['times_as_fast']:.1f}**"
        lines.append(f"| {names.get(side, side)} | {row[found['clock']]:.1f} | {times} |")
    return "\n".join(lines) + "\n"


def put(page: Path, marker: str, text: str) -> None:
    """Replace the text between two markers of a page."""
    before, _, rest = page.read_text().partition(f"<!-- {marker}:table -->\n")
    _, _, after = rest.partition(f"<!-- {marker}:end -->")
    if not after:
        raise SystemExit(f"{page} has no markers {marker}:table and {marker}:end")
    page.write_text(f"{before}<!-- {marker}:table -->\n{text}<!-- {marker}:end -->{after}")


def find_lpips() -> Callable[[ndarray, ndarray], float] | None:
    from mimicmotion.evaluation.metrics.pixels import lpips
    from mimicmotion.evaluation.networks.features import load_lpips

    try:
        network = load_lpips("alex", device="cpu")
    except MimicMotionError:
        return None
    return lambda a, b: float(lpips(a, b, network=network).mean())


class Bench:
    """Pipelines per weight format, and their results: frames and seconds, kept in a folder if one is given."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.pipes: dict[str, MimicMotionPipeline] = {}
        self.weights: dict[str, Any] = {}
        self.made: dict[tuple[int, Variant], tuple[ndarray, dict[str, float]]] = {}
        self.weights_seen = sorted(sha256_file(f) for f in self.pipe("none").backbone.files) if options.keep else []
        settings = self.pipe("none").backbone.settings
        self.size = (settings.get("height", 224), settings.get("width", 128))

    def pipe(self, quantize: str) -> MimicMotionPipeline:
        if quantize not in self.pipes:
            pipe = MimicMotionPipeline.from_pretrained(self.options.model)
            if quantize != "none":
                assert isinstance(pipe.backbone, SVDBackbone)
                before = weight_bytes(pipe.backbone.unet)
                quantize_weights(pipe.backbone.unet, quantize)  # type: ignore[arg-type]
                self.weights[quantize] = {"share": round(weight_bytes(pipe.backbone.unet) / before, 3)}
            self.pipes[quantize] = pipe
        return self.pipes[quantize]

    def clip(self, index: int) -> SynthClip:
        return held_out_clip(self.options.first + index, self.options.frames, self.size)

    def result(self, index: int, plan: Variant) -> tuple[ndarray, dict[str, float]]:
        """Frames and seconds of a clip, generated unless they are kept."""
        if (index, plan) in self.made:
            return self.made[index, plan]
        label = f"{self.weights_seen} {self.options.first + index} {self.options.frames} {GUIDANCE} {plan}"
        file = kept_file(self.options, label, ".npz")
        if file is not None and file.exists():
            with np.load(file) as kept:
                made = kept["frames"], {k: float(kept[k]) for k in ("denoise", "all")}
        else:
            pipe = self.pipe(plan.quantize)
            if not self.made:  # warm-up: the first pass of a process takes longer
                generate(pipe, self.clip(index), dataclasses.replace(plan, num_inference_steps=2), index)
            made = generate(pipe, self.clip(index), plan, index)
            if file is not None:
                np.savez(file, frames=made[0], denoise=made[1]["denoise"], all=made[1]["all"])
        self.made[index, plan] = made
        return made


def compare(bench: Bench, plans: dict[str, Variant]) -> dict[str, list[dict[str, Any]]]:
    """A row for each variant and clip: seconds, and similarity of the frames to the exact and the true ones."""
    measure_lpips, rows = find_lpips(), {name: [] for name in plans}
    for index in range(bench.options.clips):
        clip, exact = bench.clip(index), bench.result(index, REFERENCE)[0]
        for name, plan in plans.items():
            frames, seconds = bench.result(index, plan)
            found = {
                key: pose_fidelity(find_patches(frames, other, clip.poses), clip.poses)["body"].pck
                for key, other in (("pose", exact), ("pose_truth", clip.frames))
            }
            distances = {"psnr": psnr(frames, exact), "psnr_truth": psnr(frames, clip.frames)}
            perceived = None if measure_lpips is None else measure_lpips(frames, exact)
            rows[name].append({"seconds": seconds, **distances, **found, "lpips": perceived})
    return rows


def interval(values: list[float]) -> list[float | None]:
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return [None, None, None]
    found = mean_interval(finite)
    bounds = (found.value, found.low, found.high)  # a single clip has no interval
    return [round(float(v), 4) if math.isfinite(v) else None for v in bounds]


def summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, own in rows.items():
        out[name] = {
            **{f"speedup_{part}": _ratio(rows["exact"], own, part) for part in ("denoise", "all")},
            "seconds": {k: round(statistics.median(r["seconds"][k] for r in own), 2) for k in ("denoise", "all")},
            **{k: interval([r[k] for r in own]) for k in ("psnr", "pose", "psnr_truth", "pose_truth")},
            "lpips": interval([r["lpips"] for r in own if r["lpips"] is not None]),
        }
    return out


def _ratio(exact: list[dict[str, Any]], rows: list[dict[str, Any]], part: str) -> float:
    pairs = zip(exact, rows, strict=True)
    return round(statistics.median(e["seconds"][part] / r["seconds"][part] for e, r in pairs), 2)


def markdown(table: dict[str, Any]) -> str:
    lines = [
        "| | speedup, denoising | speedup, all stages | PSNR to exact, dB | LPIPS to exact | pose as in exact "
        "| PSNR to truth, dB | pose as in truth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in table.items():
        same = name == "exact"
        cells = [
            f"{row['speedup_denoise']:.2f}",
            f"{row['speedup_all']:.2f}",
            "-" if same else _cell(row["psnr"], ".1f"),
            "-" if same else _cell(row["lpips"], ".4f"),
            "-" if same else _cell(row["pose"], ".3f"),
            _cell(row["psnr_truth"], ".2f"),
            _cell(row["pose_truth"], ".3f"),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: list[float | None], spec: str) -> str:
    if value[0] is None:
        return "not measured"
    if value[1] is None or value[2] is None:
        return f"{value[0]:{spec}}"
    return f"{value[0]:{spec}} ({value[1]:{spec}} to {value[2]:{spec}})"


def write_sheet(path: Path, bench: Bench, plans: dict[str, Variant]) -> None:
    """Write one clip: the picture, then frames of truth and results, one row each."""
    chosen = np.linspace(0, bench.options.frames - 1, 5).astype(int)
    clip = bench.clip(SHEET_CLIP % bench.options.clips)
    results = [bench.result(SHEET_CLIP % bench.options.clips, plans[name])[0] for name in SHOWN]
    lines = [[clip.reference_frame, *frames[chosen]] for frames in (clip.frames, *results)]
    Image.fromarray(contact_sheet(lines)).save(path)


def quality(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Measure errors and speed-ups on the bundled model; also returns their table."""
    plans = dict(VARIANTS)
    for text in options.plan:
        name, _, fields = text.partition("=")
        values = json.loads(fields)
        if isinstance(values.get("guidance_interval"), list):
            values["guidance_interval"] = tuple(values["guidance_interval"])
        plans[name] = Variant(guidance_scale=GUIDANCE, **values)
    chosen = options.variants if options.variants is not None else list(VARIANTS)
    names = list(dict.fromkeys(["exact", *chosen, *(t.partition("=")[0] for t in options.plan)]))
    bench = Bench(options)
    table = summary(compare(bench, {name: plans[name] for name in names}))
    if options.sheet:
        write_sheet(options.sheet, bench, plans)
    line = {
        "n": options.clips,
        "frames": options.frames,
        "first": options.first,
        "size": list(bench.size),
        "model": str(options.model or "bundled"),
        "reference": {"schedule": "karras", "steps": STEPS, "guidance": GUIDANCE, "sampler": "euler"},
        "lpips": table["exact"]["lpips"][0] is not None,
        "weights": bench.weights,
        "table": table,
    }
    return line, markdown(table)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.released_threads if options.job else 1)
    cv2.setNumThreads(1)
    if options.job:
        print(json.dumps(job(options.job, options.released_frames, options.released_steps)))
        return
    line: dict[str, Any] = {"bench": "tiers"}
    tables: dict[str, str] = {}
    if not options.only_released:
        found, tables["tiers"] = quality(options)
        line |= found
    if options.released or options.only_released:
        line["released"] = against_released(options)
        tables["tiers-released"] = released_markdown(line["released"])
    line |= {"python": platform.python_version(), "torch": torch.__version__, "threads": 1}
    if options.table:
        options.table.write_text("\n".join(tables.values()))
    for marker, text in tables.items():
        if options.page:
            put(options.page, marker, text)
    print(json.dumps(line, allow_nan=False))


if __name__ == "__main__":
    main()
