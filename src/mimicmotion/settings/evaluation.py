"""Settings of `mimicmotion evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings import FusionConfig, FusionMode
from mimicmotion.settings.metrics import GROUPS
from mimicmotion.settings.parsing import Range, Settings, refuse_unused


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Settings):
    """Settings of a report."""

    real: Path
    """Folder of real videos, with one file or folder of frames per sequence."""
    generated: dict[str, Path]
    """NAME=DIR for each method. Its videos must have the names of the real ones; the suffix may differ."""
    output: Path
    """Folder to write the report to."""
    metrics: list[str] | None = None
    """Metrics to compute; default: all available ones except poses and lpips-vgg."""
    poses: bool = False
    """Also estimate poses in real and generated frames with the bundled estimator, and compare them."""
    driving: Path | None = None
    """Folder of ground-truth pose files, NAME.npz per sequence, used instead of poses found in the real frames."""
    protocol: str = "plain"
    """plain (whole frames), tiktok (sequences 335 to 340, central squares), or a YAML file."""
    convention: Literal["exact", "field"] = "exact"
    """exact: by definition; field: also PSNR, SSIM, L1 and LPIPS as commonly used code computes them, labelled so."""
    frame_rate: Literal["resample", "refuse", "count"] = "resample"
    """What to do if frame rates differ: resample (by time), refuse, or count (compare frame n with frame n)."""
    fps: Annotated[float | None, Range(0, 1000, above=True)] = None
    """Frame rate to compare at; default: that of the real video."""
    folder_fps: Annotated[float | None, Range(0, 1000, above=True)] = None
    """Frame rate of folders of frames; default: none, and frame n is compared with frame n."""
    strict: bool = False
    """Fail on missing sequences, different lengths and damaged files instead of noting them in the report."""
    clips: Literal["stride1", "disjoint"] = "stride1"
    """Clips for Frechet distances: stride1 (one starting at every frame, as in DisCo) or disjoint (no overlap)."""
    clip_frames: Annotated[int, Range(1, 1000)] = 16
    """Frames per clip for Frechet distances."""
    fit: Literal["squash", "crop"] = "squash"
    """How frames are fitted to the network's square input: squash or (central) crop; both are in common use."""
    equal_n: Literal["cut", "warn"] = "cut"
    """If methods have different numbers of clips: cut (use only their common ones for Frechet distances) or warn."""
    i3d: Path | None = None
    """I3D weights as safetensors; default: the downloaded ones."""
    fid: Path | None = None
    """InceptionV3 as TorchScript (input 299 x 299, colours from 0 to 255)."""
    fid_vid: Path | None = None
    """3D ResNet-50 as TorchScript (input: 16 frames of 112 x 112)."""
    cd_fvd: Path | None = None
    """Folder of a VideoMAE model in transformers format."""
    features: Path | None = None
    """Any other feature network as TorchScript (input: clips of 224 x 224), for a custom Frechet distance."""
    fd_infinity: bool = False
    """Also extrapolate each Frechet distance to infinitely many clips (linear in 1/n)."""
    borders: Annotated[list[int] | None, Range(1)] = None
    """First frames of new segments, for the seam score; default: from `segment_frames` or the results' OUTPUT.json."""
    segment_frames: int | None = None
    """Frames per segment (N) of the results, from which the segment borders are computed."""
    overlap_frames: int | None = None
    """Frames shared by neighbouring segments (C); default: 6, or fewer if the segments are too short."""
    reference_slot: bool = True
    """Whether the reference picture counts as one of the segment's frames."""
    fusion: FusionMode = "progressive"
    """How segments were joined; with none, only the first frame of each segment is a border."""
    identity: Path | None = None
    """Face embedding network as ONNX, such as ArcFace; default: the one from `mimicmotion weights fetch faces`."""
    references: Path | None = None
    """Folder of reference pictures, NAME.png per sequence, to compare the generated faces with as well."""
    device: str = "auto"
    """Device to run the networks on: auto, cpu or cuda."""
    frechet_resamples: Annotated[int, Range(0, 1_000_000)] = 200
    """Number of bootstrap resamples (of whole sequences) for the confidence intervals of Frechet distances."""
    seed: int = 0
    """Seed of the bootstrap."""
    cache: bool = True
    """Cache measurements by file content and reuse them."""
    cache_dir: Path | None = None
    """Cache folder; default: the user's cache folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.borders is not None and self.segment_frames is not None:
            got = f"borders={self.borders}, segment_frames={self.segment_frames}"
            raise ConfigError(got, "one of the two", "leave one out")
        self.segments()
        self._refuse_unused()
        unknown = [m for m in self.metrics or () if m not in GROUPS]
        if unknown or self.metrics == []:
            raise ConfigError(f"metrics={self.metrics}", f"any of {', '.join(GROUPS)}", "correct 'metrics'")
        if not self.generated:
            raise ConfigError("no generated videos", "at least one NAME=DIR", "pass --generated NAME=DIR")
        bad = [n for n in self.generated if not n.strip() or n == "real" or any(c in n for c in "|=\n\r")]
        if bad:
            got = f"a method named {bad[0]!r}"
            raise ConfigError(got, "a name without | and =, other than 'real'", "choose another name")
        for group in ("fid", "fid_vid", "cd_fvd", "features"):
            if group.replace("_", "-") in (self.metrics or ()) and getattr(self, group) is None:
                name = group.replace("_", "-")
                raise ConfigError(
                    f"metric {name} without its network", f"--{name} PATH", "pass the path of the network"
                )

    def _refuse_unused(self) -> None:
        asked = set(self.metrics or GROUPS)
        needs = {
            "segment_frames": ["overlap_frames", "reference_slot", "fusion"],
            "cache": ["cache_dir"],
        }
        for name, options in needs.items():
            if not getattr(self, name):
                refuse_unused(self, options, f"without {name}")
        if not self.poses and "poses" not in (self.metrics or ()):
            refuse_unused(self, ["driving"], "without poses")
        uses = {
            ("fvd",): ["i3d"],
            ("fid",): ["fid"],
            ("fid-vid",): ["fid_vid"],
            ("cd-fvd",): ["cd_fvd"],
            ("features",): ["features"],
            ("identity",): ["identity", "references"],
            ("seams",): ["borders", "segment_frames"],
            ("fvd", "fid", "fid-vid", "cd-fvd", "features"): ["clips", "equal_n", "fd_infinity", "frechet_resamples"],
            ("fvd", "fid-vid", "cd-fvd", "features"): ["clip_frames"],
            ("fvd", "features"): ["fit"],
        }
        for metrics, options in uses.items():
            if not asked & set(metrics):
                refuse_unused(self, options, f"without the metric {' or '.join(metrics)}")

    def segments(self) -> FusionConfig | None:
        """How the results were cut into segments, if the settings specify it."""
        if self.segment_frames is None:
            return None
        overlap = min(6, self.segment_frames - 1) if self.overlap_frames is None else self.overlap_frames
        return FusionConfig(
            mode=self.fusion,
            segment_frames=self.segment_frames,
            overlap_frames=overlap,
            reference_slot=self.reference_slot,
        )


def parse_methods(items: list[str]) -> dict[str, Path]:
    """Parse NAME=DIR items of the command line.

    Raises:
        ConfigError: an item is not NAME=DIR, or a name occurs twice.
    """
    methods: dict[str, Path] = {}
    for item in items:
        name, _, folder = item.partition("=")
        if not name.strip() or not folder or name in methods:
            what = "NAME=DIR, each name once"
            raise ConfigError(f"generated {item!r}", what, "for example --generated ours=results/ theirs=other/")
        methods[name.strip()] = Path(folder)
    return methods
