"""Inspect the labels of a file: whether it is AI-generated, who made it, and whether it has changed since."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mimicmotion.errors import MediaError
from mimicmotion.generate.outputs import read_sidecar, sidecar_path
from mimicmotion.generate.replay import compare
from mimicmotion.runtime.extras import install_command
from mimicmotion.video.labels import read, signature
from mimicmotion.video.writer import FRAME_PATTERN

MEANINGS = {"1": "made by a model", "2": "possibly made by a model", "3": "suspected to be made by a model"}
"""Values of the field `Label` (GB 45438-2025)."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """The labels of a file.

    Attributes:
        label: fields of the metadata label (`AIGC`); empty if there is none.
        signature: state of the C2PA manifest; see `video.labels.signature`.
        signer: name of the signer.
        sidecar: whether the file matches the sidecar next to it; see `replay.compare`. "missing" without a sidecar.
    """

    label: dict[str, str]
    signature: str
    signer: str
    sidecar: str

    @property
    def changed(self) -> bool:
        """Whether the signature or the sidecar shows that the file has changed since it was written."""
        return "changed" in (self.signature, self.sidecar)

    def summary(self) -> str:
        """A short summary for the user."""
        label = MEANINGS.get(str(self.label.get("Label")), "does not say how it was made")
        producer = f", by {self.label['ContentProducer']}" if self.label.get("ContentProducer") else ""
        signatures = {
            "none": "none",
            "unknown": f"not checked: {install_command('c2pa')}",
            "valid": f"unchanged since it was signed; the signer ({self.signer}) is not on any trust list",
            "trusted": f"unchanged since it was signed by {self.signer}",
            "changed": "CHANGED since it was signed",
        }
        sidecars = {"unchanged": "matches the file", "changed": "does NOT match the file", "missing": "none"}
        return "\n".join(
            [
                f"label     {label}{producer}",
                *([f"id        {self.label['ProduceID']}"] if self.label.get("ProduceID") else []),
                f"signature {signatures[self.signature]}",
                f"sidecar   {sidecars[self.sidecar]}",
            ]
        )


def inspect(path: Path) -> Inspection:
    """Read the labels of a video, picture or folder of frames.

    Raises:
        MediaError: the file cannot be read.
        ConfigError: the JSON file next to it is not a sidecar.
    """
    file = next(iter(sorted(path.glob(FRAME_PATTERN))), path) if path.is_dir() else path
    if file.is_dir():
        raise MediaError(f"{path} is a folder without frames", "a video, a picture or a folder of frames", "choose one")
    sidecar = sidecar_path(path)
    state = "missing"
    if sidecar.exists():
        state = compare(path, read_sidecar(sidecar, ["output_sha256"])["output_sha256"])
    return Inspection(read(file), *signature(file), state)
