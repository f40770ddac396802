"""The metrics of an evaluation report: their names, units and better directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", ""]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of the report.

    Attributes:
        name: display name.
        better: "higher" or "lower"; "" for a purely descriptive number.
        digits: number of decimals.
        group: the value of `--metrics` that selects it.
        what: short description for the report.
        unit: unit; "" for a plain number.
    """

    name: str
    better: Better
    digits: int
    group: str = ""
    what: str = ""
    unit: str = ""

    @property
    def title(self) -> str:
        """Name, followed by the unit in parentheses if there is one."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def arrow(self) -> str:
        """' ↑' or ' ↓', the better direction; '' for a descriptive number."""
        return {"higher": " ↑", "lower": " ↓", "": ""}[self.better]

    def best(self, values: Sequence[float | None]) -> int | None:
        """Return the index of the best value; None for fewer than two values or a descriptive number."""
        known = [(v, i) for i, v in enumerate(values) if v is not None]
        if len(known) < 2 or not self.better:
            return None
        return (max if self.better == "higher" else min)(known)[1]


def describe(metric: str) -> Metric:
    """Look up a metric by key; for a key that is not in `METRICS`, return a descriptive metric of that name."""
    return METRICS.get(metric) or Metric(metric.replace("_", " "), "", 4)


_PARTS = {"body": "body", "left_hand": "left hand", "right_hand": "right hand", "face": "face"}
METRICS: dict[str, Metric] = {
    "psnr": Metric("PSNR", "higher", 2, "psnr", "of the mean squared error of the whole sequence, RGB", "dB"),
    "ssim": Metric(
        "SSIM", "higher", 4, "ssim", "Wang et al. 2004 on grey: Gaussian window of sigma 1.5, mean over frames"
    ),
    "l1": Metric("L1", "lower", 4, "l1", "mean absolute difference, colours from 0 to 1"),
    "flicker": Metric("flicker", "", 5, "flicker", "deviation over time where the real video is static, 0 to 1"),
    "flicker_distance": Metric(
        "flicker, distance to real", "lower", 5, "flicker", "absolute difference from the flicker of the real video"
    ),
    "flicker_share": Metric(
        "flicker, share", "", 3, "flicker", "static fraction of the frame, where flicker is measured"
    ),
    "warping_error": Metric(
        "warping error", "", 6, "warping", "squared difference after warping by the real video's optical flow, 0 to 1"
    ),
    "warping_distance": Metric(
        "warping error, distance to real",
        "lower",
        6,
        "warping",
        "absolute difference from the warping error of the real video",
    ),
    "seam": Metric(
        "seam score", "", 3, "seams", "jump across a segment border / the jumps next to it; 1 is an invisible seam"
    ),
    "lpips_alex": Metric("LPIPS (AlexNet)", "lower", 4, "lpips", "Zhang et al. 2018, mean over frames"),
    "lpips_vgg": Metric("LPIPS (VGG-16)", "lower", 4, "lpips-vgg", "Zhang et al. 2018, mean over frames"),
    "psnr_field": Metric("PSNR (field)", "higher", 2, "psnr", "mean PSNR of the frames"),
    "psnr_overflow": Metric(
        "PSNR with overflow (field)", "higher", 2, "psnr", "with 8-bit overflow, as in old tables; not a PSNR"
    ),
    "ssim_field": Metric(
        "SSIM (field)", "higher", 4, "ssim", "on 8-bit grey, uniform window of 7 pixels, sample covariance"
    ),
    "l1_field": Metric("L1 (field)", "lower", 8, "l1", "colours from 0 to 255, divided by height x width once more"),
    "lpips_vgg_field": Metric("LPIPS (VGG-16, field)", "lower", 4, "lpips-vgg", "pictures in 0..1 instead of -1..1"),
    **{
        f"pose_error_{k}": Metric(
            f"pose error, {v}", "lower", 4, "poses", "mean distance of detected points, in torso lengths"
        )
        for k, v in _PARTS.items()
    },
    **{
        f"pck_{k}": Metric(
            f"PCK@0.1, {v}", "higher", 4, "poses", "fraction of visible points detected within 0.1 torso lengths"
        )
        for k, v in _PARTS.items()
    },
    "pck_box_body": Metric("PCK@0.1 of the box, body", "higher", 4, "poses", "within a tenth of the box's longer side"),
    **{
        f"missing_{k}": Metric(f"missing, {v}", "lower", 4, "poses", "fraction of visible points that are not detected")
        for k, v in _PARTS.items()
    },
    "hand_confidence": Metric(
        "hand confidence",
        "higher",
        4,
        "poses",
        "confidence of the pose estimator where a hand is visible in the real video",
    ),
    "jerkiness": Metric("jerkiness", "", 5, "poses", "mean second difference of the detected points, in torso lengths"),
    "jerkiness_ratio": Metric("jerkiness / true", "", 3, "poses", "1: as jerky as the true poses; above 1, it jitters"),
    "identity": Metric(
        "identity", "higher", 4, "identity", "cosine similarity of the faces in generated and real frames"
    ),
    "identity_missing": Metric(
        "faces missing", "lower", 4, "identity", "fraction of real faces without a reliable generated face"
    ),
    "fvd": Metric("FVD", "lower", 1, "fvd", "I3D Kinetics-400"),
    "fid_vid": Metric("FID-VID", "lower", 2, "fid-vid", "features of the 3D ResNet-50 given by path"),
    "fid": Metric("FID", "lower", 2, "fid", "features of the InceptionV3 given by path"),
    "cd_fvd": Metric("CD-FVD", "lower", 2, "cd-fvd", "features of the VideoMAE given by path"),
    "features": Metric(
        "Frechet distance", "lower", 2, "features", "on features of the network given by path: not FVD or FID"
    ),
}
PLAIN = ("psnr", "ssim", "l1", "flicker", "warping")
"""Groups that need neither a network nor further settings."""
FRECHET = ("fvd", "fid_vid", "fid", "cd_fvd", "features")
METRICS |= {
    f"{m}_infinity": Metric(
        f"{METRICS[m].title}, infinite set",
        "lower",
        2,
        METRICS[m].group,
        "extrapolated to infinitely many clips by a linear fit in 1/n",
    )
    for m in FRECHET
}
FIELD = ("psnr_field", "psnr_overflow", "ssim_field", "l1_field", "lpips_vgg_field")
"""Metrics averaged over frames rather than sequences, as in published tables."""
GROUPS = tuple(dict.fromkeys(m.group for m in METRICS.values()))
"""Values of --metrics."""
