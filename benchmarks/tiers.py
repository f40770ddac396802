"""Approximate tiers: time saved and error made, each feature alone and each tier: python benchmarks/tiers.py.

Prints one JSON line. The bundled model is used as the published one is, with 25 Karras steps and guidance 2 (by itself
it makes one step), and animates held-out synthetic people. Speed-ups are of CPU time on one thread, each variant in
turn on each clip: of denoising, and of encoding, denoising and decoding. Errors are against the exact result of the
same noise: PSNR and LPIPS (without `mimicmotion weights fetch lpips-alex` the column says so); beside them PSNR against
the true frames, and how well the driving pose is found again in the result by the bundled estimator (PCK@0.1, body).
Intervals are 95 % bootstrap intervals over clips. --log keeps what is measured, a second run goes on from it; --table
writes Markdown; --sheet a picture (rows per clip: truth, exact, balanced, fast). Four clips take about 8 minutes.

--released times whole jobs instead (poses planted) with the mid-size random model of benchmarks/released.py: the
published code's way of working with 25 steps, and `mimicmotion generate` in each tier. About 6 minutes more.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy import ndarray
from PIL import Image

from mimicmotion.config import SpeedOptions, SpeedPlan, resolve_speed
from mimicmotion.errors import MimicMotionError
from mimicmotion.evaluation.bootstrap import bootstrap_mean
from mimicmotion.evaluation.pixels import psnr
from mimicmotion.evaluation.poses import pose_fidelity, redetect
from mimicmotion.models.quantize import quantize_weights
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.holistic import HolisticEstimator
from mimicmotion.pose.warp import WarpedPicture
from mimicmotion.synth import SynthClip
from mimicmotion.training.bundled import drawn, held_out_clip, sheet

FIRST = 7000  # held-out clips that nothing was chosen on, tiers.py's own
TUNING = 6900  # the tiers' values were chosen on clips from here
STEPS, GUIDANCE = 25, 2.0
SHOWN = ("exact", "balanced", "fast")
REFERENCE = SpeedPlan(schedule="karras", steps=STEPS)
VARIANTS: dict[str, SpeedPlan] = {
    "exact": REFERENCE,
    "10 steps of Euler": SpeedPlan(schedule="karras", steps=10),
    "10 steps of dpmpp-2m": SpeedPlan(schedule="karras", steps=10, sampler="dpmpp-2m"),
    "ays": SpeedPlan(schedule="ays"),
    "guidance_interval": SpeedPlan(schedule="karras", steps=STEPS, guidance_interval=(0.4, 60.0)),
    "guidance_every 2": SpeedPlan(schedule="karras", steps=STEPS, guidance_every=2),
    "block_cache 0.1": SpeedPlan(schedule="karras", steps=STEPS, block_cache=0.1),
    "block_cache 0.6": SpeedPlan(schedule="karras", steps=STEPS, block_cache=0.6),
    "int8": SpeedPlan(schedule="karras", steps=STEPS, quantize="int8"),
    "fp8": SpeedPlan(schedule="karras", steps=STEPS, quantize="fp8"),
    "balanced": resolve_speed(SpeedOptions(speed="balanced"), STEPS),
    "fast": resolve_speed(SpeedOptions(speed="fast"), STEPS),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="model folder; the bundled one if left out")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--first", type=int, default=FIRST, help=f"first held-out clip ({TUNING}: those for choosing)")
    parser.add_argument("--variants", nargs="*", help="only these (and exact)")
    parser.add_argument("--plan", action="append", default=[], help='one more, as NAME={"steps": 8, ...}')
    parser.add_argument("--log", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--released", action="store_true", help="whole jobs against the published way of working")
    parser.add_argument("--released-frames", type=int, default=7)
    return parser.parse_args()


def generate(
    pipe: MimicMotionPipeline, clip: SynthClip, plan: SpeedPlan, seed: int
) -> tuple[ndarray, dict[str, float]]:
    """Frames, and CPU seconds of denoising and of all stages (drawing the poses left out)."""
    size: tuple[int, int] = clip.reference_frame.shape[:2]
    poses, reference = drawn(clip.poses, size), drawn(clip.reference_pose, size)[0]
    warped = None
    if pipe.needs_warped_picture:
        warped = WarpedPicture(clip.reference_frame, clip.reference_pose, clip.poses)
    start = time.process_time()
    recipe = pipe.recipe(
        len(poses),
        reference_slot=True,
        num_inference_steps=plan.steps,
        schedule=plan.schedule,
        sampler=plan.sampler,
        guidance_scale=GUIDANCE,
        guidance_interval=plan.guidance_interval,
        guidance_every=plan.guidance_every,
        block_cache=plan.block_cache,
        guidance_in_one_batch=False,
    )
    conditioning = pipe.encode(clip.reference_frame, poses, reference, warped=warped)
    encoded = time.process_time()
    *_, state = pipe.denoise(conditioning, pipe.draw_noise(recipe, size, seed=seed).latents, recipe)
    denoised = time.process_time()
    frames = np.stack(list(pipe.decode_state(state, recipe)))
    return frames, {"denoise": denoised - encoded, "all": time.process_time() - start}


def against_released(frames: int) -> dict[str, Any]:
    """CPU seconds of whole jobs: the published way of working, and ours in each tier, one after another."""
    import tempfile

    import mimicmotion.pipeline
    import released  # pyrefly: ignore[missing-import]  # benchmarks/released.py, beside this file
    from mimicmotion.config import GenerateConfig
    from mimicmotion.models.block_cache import BlockCache

    caches: list[BlockCache] = []

    def counted(*arguments: Any) -> BlockCache:
        caches.append(BlockCache(*arguments))
        return caches[-1]

    mimicmotion.pipeline.BlockCache = counted  # type: ignore[assignment,misc]
    pipe, out = released.build_pipeline(), {}
    for side in ("released", "exact", "balanced", "fast"):
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
            )
            start, wall = time.process_time(), time.perf_counter()
            if side == "released":
                stages = released.run_released(pipe, config, STEPS)
            else:
                pipe.use_fast_kernels()
                stages = released.run_ours(pipe, config)
            seconds = {"cpu": time.process_time() - start, "wall": time.perf_counter() - wall}
        out[side] = {
            **{k: round(v, 2) for k, v in seconds.items()},
            "stages": {k: round(v, 2) for k, v in stages.items()},
            "times_as_fast": round(out["released"]["cpu"] / seconds["cpu"], 2) if out else 1.0,
        }
        if caches:
            out[side]["block_cache"] = {"full": caches[-1].full, "light": caches[-1].light}
            caches.clear()
    return {"frames": frames, "size": list(released.SIZE), "steps": STEPS, **out}


def find_lpips() -> Callable[[ndarray, ndarray], float] | None:
    from mimicmotion.evaluation.lpips import load_lpips, lpips

    try:
        network = load_lpips("alex", device="cpu")
    except MimicMotionError:
        return None
    return lambda a, b: float(lpips(a, b, network=network).mean())


class Bench:
    """Pipelines per weight format, scorers, and what was measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.pipes: dict[str, MimicMotionPipeline] = {}
        self.weights: dict[str, Any] = {}
        self.size = (0, 0)
        pipe = self.pipe("none")
        self.size = (pipe.settings.get("height", 224), pipe.settings.get("width", 128))
        self.estimator = HolisticEstimator(threads=1, device="cpu")
        self.lpips = find_lpips()
        self.records: dict[str, dict[str, Any]] = {}
        if options.log and options.log.exists():
            lines = [json.loads(line) for line in options.log.read_text().splitlines()]
            self.records = {record["id"]: record for record in lines}

    def pipe(self, quantize: str) -> MimicMotionPipeline:
        if quantize not in self.pipes:
            pipe = MimicMotionPipeline.from_pretrained(self.options.model)
            if quantize != "none":
                done = quantize_weights(pipe.unet, quantize)  # type: ignore[arg-type]
                self.weights[quantize] = {
                    "layers": done.layers,
                    "share": round(done.bytes_after / done.bytes_before, 3),
                }
            self.pipes[quantize] = pipe
        return self.pipes[quantize]

    def clip(self, index: int) -> SynthClip:
        return held_out_clip(self.options.first + index, self.options.frames, self.size)

    def measure(self, index: int, names: list[str], plans: dict[str, SpeedPlan]) -> None:
        """Run what the log does not have yet, exact first."""
        key = f"{self.options.first + index} {self.options.frames} "
        missing = [n for n in names if key + self.label(n, plans) not in self.records]
        if not missing:
            return
        clip, exact = self.clip(index), self.kept(index, "exact")
        for name in missing if exact is not None else dict.fromkeys(["exact", *missing]):
            pipe = self.pipe(plans[name].quantize)
            frames, seconds = generate(pipe, clip, plans[name], index)
            exact = frames if exact is None else exact
            if name in SHOWN and self.options.log:
                np.save(self.frames_file(index, name), frames)
            found = pose_fidelity(redetect(frames, self.estimator), clip.poses)["body"]
            record = {
                "id": key + self.label(name, plans),
                "name": name,
                "index": index,
                "seconds": seconds,
                "psnr": psnr(frames, exact),
                "lpips": None if self.lpips is None else self.lpips(frames, exact),
                "psnr_truth": psnr(frames, clip.frames),
                "pck": found.pck,
                "pose_error": found.error,
                "missing": found.missing,
            }
            self.records[record["id"]] = record
            if self.options.log:
                with self.options.log.open("a") as file:
                    file.write(json.dumps(record) + "\n")

    def frames_file(self, index: int, name: str) -> Path:
        return self.options.log.with_suffix(f".{self.options.first + index}-{self.options.frames}-{name}.npy")

    def kept(self, index: int, name: str) -> ndarray | None:
        """Frames that an earlier measurement left beside the log."""
        if self.options.log is None or not self.frames_file(index, name).exists():
            return None
        return np.load(self.frames_file(index, name))

    @staticmethod
    def label(name: str, plans: dict[str, SpeedPlan]) -> str:
        return f"{name} {plans[name]}"

    def rows(self, name: str, plans: dict[str, SpeedPlan]) -> list[dict[str, Any]]:
        first = self.options.first
        ids = [f"{first + i} {self.options.frames} {self.label(name, plans)}" for i in range(self.options.clips)]
        return [self.records[i] for i in ids]


def interval(values: list[float]) -> list[float | None]:
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return [None, None, None]
    found = bootstrap_mean(finite)
    bounds = (found.value, found.low, found.high)  # of a single clip there is no interval
    return [round(float(v), 4) if math.isfinite(v) else None for v in bounds]


def summary(bench: Bench, names: list[str], plans: dict[str, SpeedPlan]) -> dict[str, Any]:
    exact = bench.rows("exact", plans)
    out: dict[str, Any] = {}
    for name in names:
        rows = bench.rows(name, plans)
        out[name] = {
            **{f"speedup_{part}": _ratio(exact, rows, part) for part in ("denoise", "all")},
            "seconds": {k: round(statistics.median(r["seconds"][k] for r in rows), 2) for k in ("denoise", "all")},
            **{k: interval([r[k] for r in rows]) for k in ("psnr", "psnr_truth", "pck", "pose_error", "missing")},
            "lpips": interval([r["lpips"] for r in rows if r["lpips"] is not None]),
        }
    return out


def _ratio(exact: list[dict[str, Any]], rows: list[dict[str, Any]], part: str) -> float:
    pairs = zip(exact, rows, strict=True)
    return round(statistics.median(e["seconds"][part] / r["seconds"][part] for e, r in pairs), 2)


def markdown(table: dict[str, Any]) -> str:
    lines = [
        "| | denoising, times as fast | all stages | PSNR to exact, dB | LPIPS to exact | PSNR to truth, dB | PCK |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in table.items():
        same = name == "exact"
        cells = [
            f"{row['speedup_denoise']:.2f}",
            f"{row['speedup_all']:.2f}",
            "-" if same else _cell(row["psnr"], ".1f"),
            "-" if same else _cell(row["lpips"], ".4f"),
            _cell(row["psnr_truth"], ".2f"),
            _cell(row["pck"], ".3f"),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: list[float | None], spec: str) -> str:
    if value[0] is None:
        return "not measured"
    if value[1] is None or value[2] is None:
        return f"{value[0]:{spec}}"
    return f"{value[0]:{spec}} ({value[1]:{spec}} to {value[2]:{spec}})"


def write_sheet(path: Path, bench: Bench, plans: dict[str, SpeedPlan]) -> None:
    chosen = np.linspace(0, bench.options.frames - 1, 5).astype(int)
    lines = []
    for index in range(min(bench.options.clips, 2)):
        clip = bench.clip(index)
        results = []
        for name in SHOWN:
            kept = bench.kept(index, name)
            results.append(generate(bench.pipe("none"), clip, plans[name], index)[0] if kept is None else kept)
        lines += [[clip.reference_frame, *frames[chosen]] for frames in (clip.frames, *results)]
    Image.fromarray(sheet(lines)).save(path)


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    plans = dict(VARIANTS)
    for text in options.plan:
        name, _, fields = text.partition("=")
        values = json.loads(fields)
        if isinstance(values.get("guidance_interval"), list):
            values["guidance_interval"] = tuple(values["guidance_interval"])
        plans[name] = SpeedPlan(**values)
    chosen = options.variants if options.variants is not None else list(VARIANTS)
    names = list(dict.fromkeys(["exact", *chosen, *(t.partition("=")[0] for t in options.plan)]))
    bench = Bench(options)
    for index in range(options.clips):
        bench.measure(index, names, plans)
    table = summary(bench, names, plans)
    if options.table:
        options.table.write_text(markdown(table))
    if options.sheet:
        write_sheet(options.sheet, bench, plans)
    line = {
        "bench": "tiers",
        "n": options.clips,
        "frames": options.frames,
        "first": options.first,
        "size": list(bench.size),
        "model": str(options.model or "bundled"),
        "reference": {"schedule": "karras", "steps": STEPS, "guidance": GUIDANCE, "sampler": "euler"},
        "lpips": bench.lpips is not None,
        "weights": bench.weights,
        "table": table,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": 1,
    }
    if options.released:
        line["released"] = against_released(options.released_frames)
    print(json.dumps(line, allow_nan=False))


if __name__ == "__main__":
    main()
