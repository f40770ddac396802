"""What the pipeline asks of a base model."""

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
    """One video to make.

    Attributes:
        image: the person, at the size of the video.
        poses: what guides the video, as `Backbone.guide` makes it: drawn pose frames of the picture's size.
        reference_pose: the drawn pose of the person in `image`; None switches the reference slot off.
        num_frames: of the video.
        seed: of the noise, where there is no generator.
        generator: noise is drawn from it.
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
    """What a network is told of one video, or of a batch of videos of one length; its contents are the backbone's."""

    @property
    def batch_size(self) -> int:
        """Number of videos."""
        ...

    @property
    def num_frames(self) -> int:
        """Frames of each video, without the reference slot."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ConditionedNetwork:
    """A network with its conditioning, for one run of the sampler.

    Attributes:
        conditional: the pass with the condition.
        pair: both passes of classifier-free guidance.
        precondition: makes a denoiser of what the network says.
        memory: tensors that the next step needs besides the latents, by name, to go on from a saved step.
        close: called when the run ends.
    """

    conditional: Network
    pair: NetworkPair
    precondition: Callable[[Network], Denoiser] = precondition_v
    memory: Callable[[], Mapping[str, Tensor]] = dict
    close: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class Plan:
    """How a backbone runs within a given memory; this one is that of a backbone that knows one way to run."""

    def describe(self) -> str:
        """A line for a person to read."""
        return "all at once"

    def describe_peaks(self) -> str:
        """Predicted peaks of memory, for a person to read."""
        return "not predicted"


class Backbone(ABC):
    """A base model: what the pipeline needs of it, with defaults for all that a simple one can leave out.

    Attributes:
        name: what a model folder calls it in mimicmotion.json.
        settings: the model's own defaults, as plain data: `height`, `width`, `num_inference_steps` or `sigmas` (noise
            levels), `guidance_scale`, `fusion` (fields of `FusionConfig`), `trained_frames` (slots of the clips that it
            was trained on), `pose_drawing` (of `PoseDrawer`), `estimator` (of the poses that it was trained with).
        files: files that were loaded, for a record of what was used.
        size_multiple: height and width must be multiples of this.
        device: where the networks work.
        dtype: number format of the networks.
        plan: how the networks run.
        is_configured: whether a plan was set.
        quantized: number format of narrowed weights, or "none".
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
            folder: the folder.
            checkpoint: weights to put on it.
            device: where the networks go.
            dtype: number format of the networks.
            edition: of published weights that bring no settings; None finds it. Left out where nobody says it.

        Raises:
            WeightsError: files are missing, damaged, or do not fit.
        """

    @abstractmethod
    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(channels, h, w) of a frame's latents at `size` = (height, width) pixels."""

    @abstractmethod
    def encode(
        self,
        request: Request,
        sampling: SamplingSettings,
        image_noise: Float[Tensor, "1 3 height width"] | None = None,
    ) -> Conditioning:
        """Encode picture and poses once; `image_noise` is unit noise for `sampling.noise_aug_strength`."""

    @abstractmethod
    def network(
        self, conditioning: Any, recipe: Recipe, memory: Mapping[str, Tensor] | None = None
    ) -> ConditionedNetwork:
        """The network with its conditioning; `memory` is that of the step from which a run goes on."""

    @abstractmethod
    def decode(
        self,
        latents: Float[Tensor, "frames channels h w"],
        *,
        chunk: int = 8,
        overlap: int | None = None,
        released: bool = False,
        request: Request | None = None,
        first: int = 0,
    ) -> Iterator[Frame]:
        """Frames one by one, 0..255; memory holds one chunk, whatever the length.

        Args:
            latents: clean latents of one video.
            chunk: frames decoded at once.
            overlap: frames shared and blended between chunks; None is half a chunk, 0 cuts hard.
            released: plain chunks and truncation, as the published code.
            request: the video's, for backbones whose decoder looks at picture and poses.
            first: number of the first latents' frame in the request; -1 for a reference slot.
        """

    def save(self, folder: Path) -> None:
        """Write a folder that `load` reads."""
        raise ConfigError(f"saving a model of {type(self).__name__}", "a backbone that can", "keep its original files")

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        """Move and cast all networks; ends a plan that keeps weights elsewhere."""

    def guide(
        self, picture: Frame, reference: PoseSequence, driving: PoseSequence, *, confidence_aware: bool = True
    ) -> tuple[PoseFrames, Frame]:
        """What guides a video: drawn poses (made when they are asked for), and the drawn pose of the picture.

        Args:
            picture: the person, at the size of the video.
            reference: pose of the person in the picture, in its pixels.
            driving: poses of the video, in pixels of the picture.
            confidence_aware: draw with the estimator's confidence (paper section 3.3).
        """
        drawer = self.pose_drawer((picture.shape[0], picture.shape[1]), confidence_aware=confidence_aware)
        return DrawnPoses(driving, drawer), drawer.draw(reference.xy[0], reference.confidence[0])

    def pose_drawer(self, size: tuple[int, int], *, confidence_aware: bool = True) -> PoseDrawer:
        """Draws poses at `size` = (height, width), in the look that the model was trained on."""
        look = dict(self.settings.get("pose_drawing", {}))
        aware = look.pop("confidence_aware", True) and confidence_aware
        return PoseDrawer(size, confidence_aware=aware, **look)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """All networks; of a model that did not come from files, their tensors say what was used."""
        return ()

    def check(self, request: Request) -> None:
        """Raise InputError where a request lacks what this backbone needs."""

    # --- running within a given memory ------------------------------------------------------------------------------

    @property
    def latent_device(self) -> torch.device:
        """Where latents of whole videos are kept."""
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
        """The fastest way to run that fits into memory.

        Args:
            size: (height, width) of the video.
            recipe: of the video.
            options: what the user has set; `memory` takes the place of what is free.
            device: where it will run; None is where the networks are.
            keep_x0: whether clean latents are kept for previews.
            predict: work out the peaks also where there is plenty.

        Raises:
            ConfigError: nothing fits; says what is missing.
        """
        return self.plan

    def read_plan(self, facts: Mapping[str, Any]) -> Plan | None:
        """A plan from the record of an earlier run; None if it cannot be followed."""
        return None

    def configure(self, plan: Any, device: torch.device | str | None = None) -> None:
        """Run as a plan says from now on; may be called between two steps.

        Args:
            plan: of `plan_run`.
            device: where the networks work; None is where they do now.
        """

    def forget_plan(self) -> None:
        """Have the next job planned anew; weights stay where they are until then."""

    def quantize(self, format: str) -> None:
        """Narrow the weights of the largest network to "int8" or "fp8"."""
        raise ConfigError(f"quantize={format!r}", "a backbone that can", "leave out 'quantize'")
