"""The small model: narrow versions of SVD's networks, conditioned on the picture warped to each pose.

The published model has no such condition (see the model card). With `reference_warp: residual`, the model denoises
the difference from the warped picture. An optional detail network restores fine detail in decoded frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from mimicmotion.arrays import Frame, PoseFrames
from mimicmotion.backbones.base import Request
from mimicmotion.backbones.svd.backbone import SVDBackbone
from mimicmotion.backbones.svd.checkpoint import Components
from mimicmotion.backbones.svd.conditioning import Conditioning
from mimicmotion.backbones.tiny.detail import add_detail
from mimicmotion.backbones.tiny.warp import MovedPicture, show_moved
from mimicmotion.diffusion.denoiser import Denoiser, Network, precondition_v, shift
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.pose.guidance.limb_warp import WarpedPicture, WarpedPoses
from mimicmotion.pose.keypoints import PoseSequence


class TinyBackbone(SVDBackbone):
    """SVD's networks, conditioned on a warped picture.

    Args:
        parts: the networks. Their setting `reference_warp` is "limbs", or "residual" to denoise the difference from the
            warped picture. With a `warp` network, its confident pixels are copied to the result; without one, the
            picture is warped limb by limb.

    Raises:
        ConfigError: the networks do not match, or `reference_warp` is invalid.
    """

    name: ClassVar[str] = "tiny"
    warps: ClassVar[bool] = True

    def __init__(self, parts: Components) -> None:
        super().__init__(parts)
        if (kind := self.settings.get("reference_warp")) not in ("limbs", "residual"):
            raise ConfigError(f"reference_warp={kind!r}", "limbs or residual", "use the svd backbone for other models")

    def check(self, request: Request) -> None:
        """Raise InputError if the poses come without the warped picture."""
        super().check(request)
        if not isinstance(request.poses, WarpedPoses):
            fix = "pass what pipe.guide(picture, reference, driving) returns"
            raise InputError("poses without the warped picture", "WarpedPoses, which this model needs", fix)

    def guide(
        self, picture: Frame, reference: PoseSequence, driving: PoseSequence, *, confidence_aware: bool = True
    ) -> tuple[PoseFrames, Frame]:
        """Draw the poses, and warp the picture to each pose; see `Backbone.guide`."""
        poses, own = super().guide(picture, reference, driving, confidence_aware=confidence_aware)
        if self.warp is None:
            return WarpedPoses(poses, WarpedPicture(picture, reference, driving)), own
        drawer = self.pose_drawer((picture.shape[0], picture.shape[1]))
        return WarpedPoses(poses, MovedPicture(self.warp, picture, reference, driving, drawer)), own

    def warped(self, request: Request) -> PoseFrames | None:
        """Return the picture warped to each pose."""
        return request.poses.warped if isinstance(request.poses, WarpedPoses) else None

    def precondition(self, network: Network, conditioning: Conditioning, slot: bool) -> Denoiser:
        """Turn the U-Net, which predicts v of the latents or of their residuals, into a denoiser of the latents."""
        denoiser = precondition_v(network)
        if self.settings["reference_warp"] != "residual":
            return denoiser
        factor = self.vae.config.scaling_factor
        return shift(denoiser, lambda slots: factor * conditioning.latent_slots(slots, slot))

    def finish(self, frames: Iterator[Tensor], request: Request, first: int, count: int) -> Iterator[Tensor]:
        """Restore detail in decoded frames, and copy the confident pixels of the warp network to them."""
        if self.detail is None or not isinstance(request.poses, WarpedPoses):
            return frames
        if len(request.poses) < first + count:
            got, want = f"warped poses of {len(request.poses)} frames", f"{first + count} frames"
            raise InputError(got, want, "pass a warped picture and a drawn pose for each frame")
        detailed = add_detail(self.detail, frames, request=request, first=first)
        moved = request.poses.warped
        return show_moved(moved, detailed, first) if isinstance(moved, MovedPicture) else detailed
