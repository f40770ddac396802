"""The interface between the pipeline and a base model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.arrays import Frame, PoseFrames
from mimicmotion.diffusion.denoiser import Denoiser, Network, NetworkPair, precondition_v
from mimicmotion.diffusion.recipe import Recipe
from mimicmotion.errors import ConfigError
from mimicmotion.pose.guidance.skeleton import DrawnPoses, PoseDrawer
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.settings import ExecutionOptions, SamplingSettings


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """The inputs for one video to generate.

    Attributes:
        image: picture of the person, at the size of the video.
        poses: drawn pose frames of the picture's size, as returned by `Backbone.guide`.
        reference_pose: drawn pose of the person in `image`; None disables the reference slot.
        num_frames: number of frames to generate.
        seed: seed of the noise; ignored if `generator` is set.
        generator: random generator for the noise.
    """

    image: Frame
    poses: PoseFrames
    reference_pose: Frame | None
    num_frames: int
    seed: int = 42
    generator: torch.Generator | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the video in pixels."""
        return self.image.shape[0], self.image.shape[1]


class Conditioning(Protocol):
    """The encoded picture and poses that a network is conditioned on. The contents depend on the backbone."""

    @property
    def num_frames(self) -> int:
        """Number of frames of the video, without the reference slot."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ConditionedNetwork:
    """A network bound to its conditioning, for one run of the sampler.

    Attributes:
        conditional: runs the conditional pass.
        pair: runs both passes of classifier-free guidance.
        precondition: turns the network into a denoiser.
        memory: returns the network's own tensors, by name, that are needed to resume from a saved step.
        close: called at the end of the run, to free memory.
    """

    conditional: Network
    pair: NetworkPair
    precondition: Callable[[Network], Denoiser] = precondition_v
    memory: Callable[[], Mapping[str, Tensor]] = dict
    close: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class Plan:
    """How a backbone runs within a memory limit. Backbones with only one execution mode can use this base class."""

    def describe(self) -> str:
        """Return a one-line description for the user."""
        return "all at once"

    def describe_peaks(self) -> str:
        """Return the predicted memory peaks as text for the user."""
        return "not predicted"


class Backbone(ABC):
    """Abstract base class of base models. Optional methods and attributes have defaults.

    Attributes:
        name: name of the backbone in a model folder's mimicmotion.json.
        settings: the model's default settings, as plain data: `height`, `width`, `num_inference_steps` or `sigmas`
            (noise levels), `guidance_scale`, `fusion` (fields of `FusionConfig`), `trained_frames` (frames per clip in
            training), `pose_drawing` (arguments of `PoseDrawer`), `estimator` (pose estimator used in training).
        files: files that the model was loaded from.
        size_multiple: height and width must be multiples of this.
        device: device of the networks.
        dtype: data type of the networks.
        plan: execution plan of the networks.
        is_configured: whether an execution plan has been applied with `configure`.
        quantized: format of quantised weights, or "none".
    """

    name: ClassVar[str]
    settings: dict[str, Any]
    files: tuple[Path, ...] = ()
    size_multiple: int = 8
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    plan: Any = Plan()
    is_configured: bool = False
    quantized: str = "none"

    @classmethod
    @abstractmethod
    def load(
        cls,
        folder: Path,
        checkpoint: str | Path | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        edition: str | None = None,
    ) -> Backbone:
        """Load a model folder.

        Args:
            folder: model folder.
            checkpoint: weights to load on top of it.
            device: device of the networks.
            dtype: data type of the networks.
            edition: edition of the published weights, which have no settings; None detects it. `load_backbone` only
                passes it if it is set, so that other backbones can omit this argument.

        Raises:
            WeightsError: files are missing or damaged, or do not match.
        """

    @abstractmethod
    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return the shape (channels, h, w) of the latents of a frame of `size` = (height, width) pixels."""

    @abstractmethod
    def encode(
        self, request: Request, sampling: SamplingSettings, image_noise: Float[Tensor, "1 3 height width"] | None = None
    ) -> Conditioning:
        """Encode the picture and the poses; `image_noise` is unit noise, scaled by `sampling.noise_aug_strength`."""

    @abstractmethod
    def network(
        self, conditioning: Any, recipe: Recipe, memory: Mapping[str, Tensor] | None = None
    ) -> ConditionedNetwork:
        """Bind the network to its conditioning. To resume a run, pass the `memory` of the step to resume from."""

    @abstractmethod
    def decode(
        self,
        latents: Float[Tensor, "frames channels h w"],
        *,
        chunk: int = 8,
        released: bool = False,
        request: Request | None = None,
        first: int = 0,
    ) -> Iterator[Frame]:
        """Decode latents into uint8 frames, one by one. Only one chunk is in memory, however long the video is.

        Args:
            latents: clean latents of one video.
            chunk: number of frames to decode at once.
            released: decode as the published code does: chunks do not overlap, and values are truncated to integers.
                Otherwise, chunks overlap and are blended.
            request: request of the video, for backbones whose decoder uses the picture and the poses.
            first: index in the video of the first frame of `latents`; -1 if it is the reference slot.
        """

    def save(self, folder: Path) -> None:
        """Save the model to a folder that `load` can read."""
        raise ConfigError(f"{type(self).__name__} cannot be saved", "another backbone", "copy its original folder")

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        """Move and cast all networks. This turns off weight offloading."""

    def guide(
        self, picture: Frame, reference: PoseSequence, driving: PoseSequence, *, confidence_aware: bool = True
    ) -> tuple[PoseFrames, Frame]:
        """Draw the driving poses (on demand, when frames are accessed) and the reference pose.

        Args:
            picture: picture of the person, at the size of the video.
            reference: pose of the person in the picture, in its pixels.
            driving: poses of the video, in pixels of the picture.
            confidence_aware: draw uncertain keypoints darker (paper section 3.3).

        Returns:
            (drawn driving poses, drawn reference pose).
        """
        drawer = self.pose_drawer((picture.shape[0], picture.shape[1]), confidence_aware=confidence_aware)
        return DrawnPoses(driving, drawer), drawer.draw(reference.xy[0], reference.confidence[0])

    def pose_drawer(self, size: tuple[int, int], *, confidence_aware: bool = True) -> PoseDrawer:
        """Return a drawer for poses at `size` = (height, width), in the style the model was trained on."""
        style = dict(self.settings.get("pose_drawing", {}))
        aware = style.pop("confidence_aware", True) and confidence_aware
        return PoseDrawer(size, confidence_aware=aware, **style)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """All networks. Their tensors identify a model that was not loaded from files."""
        return ()

    def check(self, request: Request) -> None:
        """Raise InputError if a request lacks inputs that this backbone needs."""

    # --- running within a memory limit ------------------------------------------------------------------------------

    @property
    def latent_device(self) -> torch.device:
        """Device that stores the latents of whole videos."""
        return self.device

    def plan_run(
        self,
        size: tuple[int, int],
        recipe: Recipe,
        options: ExecutionOptions,
        *,
        device: torch.device | None = None,
        keep_x0: bool = False,
        predict: bool = False,
    ) -> Plan:
        """Choose the fastest execution plan that fits in memory.

        Args:
            size: (height, width) of the video.
            recipe: recipe of the video.
            options: options set by the user; `options.memory`, if set, is used instead of the free memory.
            device: device to run on; None uses the networks' device.
            keep_x0: whether clean latents are kept for previews.
            predict: predict the peaks even if there is plenty of memory.

        Raises:
            ConfigError: no plan fits; the message states how much memory is needed.
        """
        return self.plan

    def read_plan(self, facts: Mapping[str, Any]) -> Plan | None:
        """Restore a plan from the record of an earlier run. Return None if an incompatible version wrote the record."""
        return None

    def configure(self, plan: Any, device: torch.device | str | None = None) -> None:
        """Apply an execution plan. May be called between two steps.

        Args:
            plan: plan returned by `plan_run`.
            device: device of the networks; None keeps the current one.
        """

    def forget_plan(self) -> None:
        """Drop the plan, so that the next job is planned from scratch. Weights stay on their devices until then."""

    def quantize(self, format: str) -> None:
        """Quantise the weights of the largest network to "int8" or "fp8"."""
        raise ConfigError(f"quantize={format!r}", "a backbone that supports it", "leave out 'quantize'")
