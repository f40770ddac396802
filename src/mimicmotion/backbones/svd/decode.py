"""Decode latents into a stream of frames, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from mimicmotion.backbones.svd.vae import Autoencoder
from mimicmotion.diffusion.sampling import check_finite
from mimicmotion.errors import ConfigError


def plan_chunks(num_frames: int, chunk: int, overlap: int) -> list[range]:
    """Split frames 0..num_frames-1 into evenly spaced chunks of equal size that overlap by at least `overlap` frames.

    Args:
        num_frames: number of frames; for 0, there are no chunks.
        chunk: frames per chunk, at least 1; a shorter video is one chunk.
        overlap: minimum overlap, less than `chunk`.

    Raises:
        ConfigError: chunk or overlap is out of range.
    """
    if not 0 <= overlap < chunk:
        got = f"decode_chunk_size={chunk} with an overlap of {overlap}"
        raise ConfigError(got, "decode_chunk_size above the overlap, which is at least 0", "raise decode_chunk_size")
    if num_frames <= chunk:
        return [range(num_frames)] if num_frames else []
    last = num_frames - chunk
    count = -(-last // (chunk - overlap))
    starts = [i * last // count for i in range(count + 1)]  # steps of at most chunk - overlap
    return [range(s, s + chunk) for s in starts]


def blend_weight(j: int, overlap: int) -> float:
    """Return the next chunk's weight at frame j = 1..overlap: 6t^5 - 15t^4 + 10t^3 (smootherstep), t = j/(overlap+1).

    The error of a decoded frame, compared with decoding all frames at once, grows towards the ends of its chunk. With
    this ramp, it is less than half as large as with a linear one.
    """
    t = j / (overlap + 1)
    return t**3 * (t * (6 * t - 15) + 10)


def decode_float(
    vae: Autoencoder,
    latents: Float[Tensor, "frames channels h w"],
    chunk: int = 8,
    *,
    released: bool = False,
    decode: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Float[Tensor, "3 height width"]]:
    """Decode latents into frames, one by one, in float32 before clamping, on the autoencoder's device.

    The decoder has temporal layers (29 convolutions, 28 norms), so frames decoded in chunks differ from those decoded
    all at once, and chunks without overlap show seams. Chunks therefore overlap by half, and are blended with a ramp
    that gives the least weight to the ends of a chunk (`blend_weight`). Only one chunk is in memory at a time.

    Args:
        vae: the autoencoder.
        latents: latents of a video, at unit scale (divided by `vae.config.scaling_factor` here), on any device.
        chunk: frames decoded at once; the result is exact with all frames in one chunk.
        released: use chunks without overlap, as in the published code; the last one may be shorter. To reproduce that
            code, pass the latents of the reference slot as well, drop its frame, and truncate in `to_uint8`.
        decode: decodes the frames of a chunk; None means `decode_frames`, all at once.
    """
    chunks = plan_chunks(len(latents), chunk, chunk // 2)
    if released:
        chunks = [range(s, min(s + chunk, len(latents))) for s in range(0, len(latents), chunk)]
    return _decode_chunks(latents, chunks, decode or partial(decode_frames, vae))


def _decode_chunks(latents: Tensor, chunks: list[range], decode: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    overlap: list[Tensor] = []  # decoded frames to blend with the next chunk
    for i, chunk in enumerate(chunks):
        decoded = decode(latents[chunk.start : chunk.stop])
        check_finite(decoded, f"the decoded frames {chunk.start} to {chunk.stop - 1}")
        frames = list(decoded)
        del decoded
        for j in range(len(overlap)):
            frames[j] = torch.lerp(overlap[j], frames[j], blend_weight(j + 1, len(overlap)))
        final = chunks[i + 1].start - chunk.start if i + 1 < len(chunks) else len(frames)
        overlap, frames = frames[final:], frames[:final]
        yield from frames
        del frames  # frees their memory before the next chunk


@torch.inference_mode()
def decode_frames(
    vae: Autoencoder, latents: Float[Tensor, "frames channels h w"], *, frame_chunk: int | None = None
) -> Float[Tensor, "frames 3 height width"]:
    """Decode the frames of one clip at once, in float32 before clamping, on the autoencoder's device.

    Args:
        vae: the autoencoder.
        latents: latents of the clip, at unit scale, on any device.
        frame_chunk: frames per chunk in the decoder's layers, which does not change the result; None means all.
    """
    param = next(vae.decoder.parameters())
    z = (latents.to(param.device) / vae.config.scaling_factor).to(param.dtype)
    return vae.decode(z, len(z), frame_chunk).float()


def to_uint8(
    frame: Float[Tensor, "*lead 3 height width"], truncate: bool = False
) -> UInt8[ndarray, "*lead height width 3"]:
    """Convert a frame in [-1, 1] to uint8, clamped, channels last. Rounds to nearest; the published code truncates."""
    # Same order of operations as in the published code, so that truncation gives the same values.
    scaled = (frame.float() / 2 + 0.5).clamp(0, 1) * 255
    values = scaled if truncate else scaled.round()
    return np.ascontiguousarray(values.to(torch.uint8).movedim(-3, -1).cpu().numpy())
