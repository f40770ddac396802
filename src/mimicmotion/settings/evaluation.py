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
    """Everything that a report depends on."""

    real: Path
    """The folder of real videos: one file or folder of frames for each sequence."""
    generated: dict[str, Path]
    """NAME=DIR of each method: its videos bear the names of the real ones (whatever the suffix)."""
    output: Path
    """The folder of the report."""
    metrics: list[str] | None = None
    """Which metrics; empty takes all that need nothing that is not here."""
    poses: bool = False
    """Also find poses in real and generated frames and compare them (bundled estimator)."""
    driving: Path | None = None
    """Folder of pose files, NAME.npz for each sequence: the true poses, instead of those found in the real frames."""
    protocol: str = "plain"
    """plain (whole frames), tiktok (sequences 335 to 340, central squares), or a YAML file."""
    convention: Literal["exact", "field"] = "exact"
    """exact: by definition; field: PSNR, SSIM, L1, LPIPS as widespread code computes them, under names of their own."""
    frame_rate: Literal["resample", "refuse", "count"] = "resample"
    """Unequal frame rates: resample by time, refuse, or count (frame n against frame n)."""
    fps: Annotated[float | None, Range(0, 1000, above=True)] = None
    """Compare at this rate; empty uses the real video's."""
    folder_fps: Annotated[float | None, Range(0, 1000, above=True)] = None
    """Frames per second of folders of frames; empty: frame n is compared with frame n."""
    strict: bool = False
    """Refuse missing sequences, unequal lengths, and damaged files instead of noting them."""
    clips: Literal["stride1", "disjoint"] = "stride1"
    """Frechet distances: a clip begins at every frame (DisCo's protocol), or clips follow one another."""
    clip_frames: Annotated[int, Range(1, 1000)] = 16
    """Frames of a clip."""
    fit: Literal["squash", "crop"] = "squash"
    """Frames become the network's square by bicubic resizing, or by a central crop (both are in use)."""
    equal_n: Literal["cut", "warn"] = "cut"
    """Frechet distances of methods with unequal numbers of clips: cut to the same clips, or only warn."""
    i3d: Path | None = None
    """I3D weights as safetensors; empty uses the fetched ones."""
    fid: Path | None = None
    """InceptionV3 as TorchScript (299 x 299, colours from 0 to 255)."""
    fid_vid: Path | None = None
    """3D ResNet-50 as TorchScript (16 frames of 112 x 112)."""
    cd_fvd: Path | None = None
    """Folder of a VideoMAE of transformers."""
    features: Path | None = None
    """Any other network as TorchScript (clips of 224 x 224): a Frechet distance that has no name."""
    fd_infinity: bool = False
    """Also estimate each Frechet distance at infinitely many clips (a line in 1/n)."""
    borders: Annotated[list[int] | None, Range(1)] = None
    """First frames of new segments, for the seam score; empty: by segment_frames, or the OUTPUT.json of results."""
    segment_frames: int | None = None
    """Frames per segment (N) of the results, to find the borders by the plan of sampling."""
    overlap_frames: int | None = None
    """Frames shared by neighbouring segments (C); empty: 6, or what shorter segments allow."""
    reference_slot: bool = True
    """Whether the reference picture takes one of these frames."""
    fusion: FusionMode = "progressive"
    """How segments were joined: with none, only the first frames of segments are borders."""
    identity: Path | None = None
    """Network of face embeddings as ONNX (ArcFace's kind)."""
    references: Path | None = None
    """Folder of reference pictures, NAME.png for each sequence: generated faces are also compared with theirs."""
    device: str = "auto"
    """Where networks run: auto, cpu, cuda."""
    frechet_resamples: Annotated[int, Range(0, 1_000_000)] = 200
    """Draws of whole sequences for the intervals of Frechet distances."""
    seed: int = 0
    """Seed of these draws."""
    cache: bool = True
    """Keep what was measured by content of the files, and use it again."""
    cache_dir: Path | None = None
    """Where; empty uses the user's cache folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.borders is not None and self.segment_frames is not None:
            got = f"borders={self.borders}, segment_frames={self.segment_frames}"
            raise ConfigError(got, "borders from 1, or segment_frames", "leave one out")
        self.segments()
        self._refuse_unused()
        unknown = [m for m in self.metrics or () if m not in GROUPS]
        if unknown or self.metrics == []:
            raise ConfigError(f"metrics={self.metrics}", f"any of {', '.join(GROUPS)}", "correct 'metrics'")
        if not self.generated:
            raise ConfigError("no generated videos", "at least one NAME=DIR", "give --generated NAME=DIR")
        bad = [n for n in self.generated if not n.strip() or n == "real" or any(c in n for c in "|=\n\r")]
        if bad:
            got = f"a method called {bad[0]!r}"
            raise ConfigError(got, "a name without | and =, other than 'real'", "name it otherwise")
        for group in ("fid", "fid_vid", "cd_fvd", "features", "identity"):
            if group.replace("_", "-") in (self.metrics or ()) and getattr(self, group) is None:
                name = group.replace("_", "-")
                raise ConfigError(f"metric {name} without its network", f"--{name} PATH", "give the network by path")

    def _refuse_unused(self) -> None:
        asked = set(self.metrics or GROUPS)
        needs = {
            "identity": ["references"],
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
            ("identity",): ["identity"],
            ("seams",): ["borders", "segment_frames"],
            ("fvd", "fid", "fid-vid", "cd-fvd", "features"): ["clips", "equal_n", "fd_infinity", "frechet_resamples"],
            ("fvd", "fid-vid", "cd-fvd", "features"): ["clip_frames"],
            ("fvd", "features"): ["fit"],
        }
        for metrics, options in uses.items():
            if not asked & set(metrics):
                refuse_unused(self, options, f"without the metric {' or '.join(metrics)}")

    def segments(self) -> FusionConfig | None:
        """How the results were cut into segments, if the settings say so."""
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
    """NAME=DIR of the command line.

    Raises:
        ConfigError: not NAME=DIR, or a name is given twice.
    """
    methods: dict[str, Path] = {}
    for item in items:
        name, _, folder = item.partition("=")
        if not name.strip() or not folder or name in methods:
            what = "NAME=DIR, each name once"
            raise ConfigError(f"generated {item!r}", what, "for example --generated ours=results/ theirs=other/")
        methods[name.strip()] = Path(folder)
    return methods
