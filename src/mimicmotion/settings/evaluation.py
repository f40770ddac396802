"""Settings of `mimicmotion evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.metrics import GROUPS
from mimicmotion.settings.parsing import Range, Settings, refuse_unused
from mimicmotion.settings.study import parse_method


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Settings):
    """Settings of `mimicmotion evaluate` and its YAML file."""

    real: Path
    """Folder of real videos, with one file or folder of frames per sequence."""
    generated: dict[str, Path]
    """NAME=DIR for each method. Its videos must be named like the real ones; the suffix may differ."""
    output: Path
    """Folder to write the report to."""
    metrics: list[str] | None = None
    """Metrics to compute; default: all available except lpips-vgg, and except poses without `driving`."""
    driving: Path | None = None
    """Folder of ground-truth pose files, NAME.npz per sequence, used instead of poses estimated in the real frames."""
    protocol: str = "plain"
    """plain (whole frames), tiktok (sequences 335 to 340, central squares), or a YAML file."""
    convention: Literal["exact", "field"] = "exact"
    """exact: PSNR, SSIM, L1 and LPIPS as defined; field: as commonly used code computes them, labelled as such."""
    folder_fps: Annotated[float | None, Range(0, 1000, above=True)] = None
    """Frame rate of folders of frames; by default, frame n is compared with frame n."""
    strict: bool = False
    """Fail on missing sequences, different lengths and damaged files instead of noting them in the report."""
    clips: Literal["stride1", "disjoint"] = "stride1"
    """Clips for Frechet distances: stride1 (one starting at every frame, as in DisCo) or disjoint (no overlap)."""
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
    """First frames of new segments, for the seam score; default: from the results' OUTPUT.json."""
    identity: Path | None = None
    """Face embedding network as ONNX, such as ArcFace; default: the one from `mimicmotion weights fetch faces`."""
    cache: bool = True
    """Cache measurements by file content and reuse them."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
                raise ConfigError(f"metric {name} without its network", f"--{name} PATH", "pass its path")

    def _refuse_unused(self) -> None:
        asked = set(self.metrics or GROUPS)
        uses = {
            ("poses",): ["driving"],
            ("fvd",): ["i3d"],
            ("fid",): ["fid"],
            ("fid-vid",): ["fid_vid"],
            ("cd-fvd",): ["cd_fvd"],
            ("features",): ["features"],
            ("identity",): ["identity"],
            ("seams",): ["borders"],
            ("fvd", "fid", "fid-vid", "cd-fvd", "features"): ["clips", "fd_infinity"],
        }
        for metrics, options in uses.items():
            if not asked & set(metrics):
                refuse_unused(self, options, f"without the metric {' or '.join(metrics)}")


def parse_methods(items: list[str]) -> dict[str, Path]:
    """Parse NAME=DIR arguments.

    Raises:
        ConfigError: an item is not NAME=DIR, or a name occurs twice.
    """
    methods = dict(map(parse_method, items))
    if len(methods) < len(items):
        raise ConfigError(f"generated {items}", "each name once", "give each method a different name")
    return methods
