"""SVD's autoencoder: pictures to latents, and latents to a stream of frames."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor, nn

from mimicmotion.errors import ConfigError

DecodeMode = Literal["blend", "released"]
DecodeClip = Callable[[Any, Tensor], Tensor]


@torch.inference_mode()
def encode_mode(
    vae: Any, images: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch channels height//8 width//8"]:
    """Encode pictures to the mode of the posterior, NOT multiplied by the scaling factor.

    This is how SVD conditions on a picture; latents to be denoised are the same times `vae.config.scaling_factor`.
    Where the autoencoder asks for it (`force_upcast`), a float16 encoder computes in float32: its activations
    overflow float16. The upcast is a temporary copy of the weights, the module itself is not touched.

    Args:
        vae: diffusers' AutoencoderKLTemporalDecoder or a network with the same `encode` and `config`.
        images: RGB in [-1, 1], on any device.

    Returns:
        Latents on the autoencoder's device, float32.
    """
    param = next(vae.parameters())
    if param.dtype != torch.float16 or not getattr(vae.config, "force_upcast", False):
        return vae.encode(images.to(param.device, param.dtype)).latent_dist.mode().float()
    weights = {f"vae.{k}": v.float() for k, v in vae.state_dict().items() if not k.startswith("decoder.")}
    return torch.func.functional_call(_Encode(vae), weights, (images.to(param.device, torch.float32),))


def encoder_digest(vae: Any) -> str:
    """Identity of an encoder: two autoencoders of one digest make the same latents (decoders may differ).

    Sha256 over its weights in float16, so that a model is the same whether it was read from float32 or float16 files.
    """
    digest = hashlib.sha256()
    for name, value in sorted(vae.state_dict().items()):
        if not name.startswith("decoder."):
            half = value.detach().to("cpu", torch.float16).contiguous()
            digest.update(f"{name} {tuple(half.shape)}\n".encode())
            digest.update(half.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


class _Encode(nn.Module):
    """`vae.encode(...)` as a forward, which `functional_call` needs."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor) -> Tensor:
        return self.vae.encode(images).latent_dist.mode()


def plan_chunks(num_frames: int, chunk: int, overlap: int) -> list[range]:
    """Cover 0..num_frames-1 by chunks of equal size, neighbours sharing at least `overlap` frames, spread evenly.

    Args:
        num_frames: 0 gives no chunk.
        chunk: frames per chunk; a shorter video is one chunk.
        overlap: less than `chunk`.
    """
    if chunk < 1 or not 0 <= overlap < chunk:
        raise ConfigError(
            f"decode_chunk_size={chunk} with an overlap of {overlap}",
            "decode_chunk_size >= 1 and 0 <= overlap < decode_chunk_size",
            "raise decode_chunk_size or lower the overlap",
        )
    if num_frames <= chunk:
        return [range(num_frames)] if num_frames else []
    last = num_frames - chunk
    count = -(-last // (chunk - overlap))
    starts = [i * last // count for i in range(count + 1)]  # steps of at most chunk - overlap
    return [range(s, s + chunk) for s in starts]


def blend_weight(j: int, overlap: int) -> float:
    """Weight of the next chunk at frame j = 1..overlap of an overlap: 6t^5 - 15t^4 + 10t^3 at t = j/(overlap+1).

    A decoded frame is the more wrong the nearer it is to the end of its chunk. Against a whole decode this ramp
    leaves less than half the error of the straight one.
    """
    t = j / (overlap + 1)
    return t**3 * (t * (6 * t - 15) + 10)


def decode_float(
    vae: Any,
    latents: Float[Tensor, "frames channels h w"],
    decode_chunk_size: int = 8,
    *,
    overlap: int | None = None,
    mode: DecodeMode = "blend",
    decode: DecodeClip | None = None,
) -> Iterator[Float[Tensor, "3 height width"]]:
    """Decode latents to frames one by one, float32 before clamping, on the autoencoder's device.

    The decoder looks along time (29 temporal convolutions, 28 norms over time), so a chunk is not decoded as the
    same frames in a whole video would be: plain chunks show seams. Chunks that overlap are blended by a ramp that
    trusts the frames at the ends of a chunk least, see `blend_weight`. Memory holds one chunk, whatever the number
    of frames.

    Args:
        vae: diffusers' AutoencoderKLTemporalDecoder or a network with the same `decode(z, num_frames=)`.
        latents: of one video, at unit scale (divided by `vae.config.scaling_factor` here), on any device.
        decode_chunk_size: frames decoded at once; with all frames in one chunk the result is exact.
        overlap: least frames shared by neighbouring chunks; default is half a chunk. 0 cuts hard.
        mode: "blend", or "released" for plain chunks with a short last one, as the published code has them.
        decode: how the frames of a chunk are decoded, such as `vae_tiles.decode_latents`; None is the plain way.

    Raises:
        ConfigError: bad chunk size or overlap.
    """
    chunks = decode_chunks(len(latents), decode_chunk_size, overlap=overlap, mode=mode)
    return _decode_chunks(vae, latents, chunks, decode or decode_clip)


def decode_chunks(
    num_frames: int, decode_chunk_size: int = 8, *, overlap: int | None = None, mode: DecodeMode = "blend"
) -> list[range]:
    """Frames of each chunk; arguments as for `decode_float`.

    Raises:
        ConfigError: bad chunk size or overlap.
    """
    shared = decode_chunk_size // 2 if overlap is None else overlap
    chunks = plan_chunks(
        num_frames, decode_chunk_size, min(shared, decode_chunk_size - 1) if overlap is None else shared
    )
    if mode == "released":
        starts = range(0, num_frames, decode_chunk_size)
        return [range(s, min(s + decode_chunk_size, num_frames)) for s in starts]
    if mode != "blend":
        raise ConfigError(f"decode mode {mode!r}", "blend or released", "correct the mode")
    return chunks


def _decode_chunks(vae: Any, latents: Tensor, chunks: list[range], decode: DecodeClip) -> Iterator[Tensor]:
    held: list[Tensor] = []  # frames decoded but not final yet: the next chunk may still be blended in
    for i, chunk in enumerate(chunks):
        frames = list(decode(vae, latents[chunk.start : chunk.stop]))
        for j in range(len(held)):
            frames[j] = torch.lerp(held[j], frames[j], blend_weight(j + 1, len(held)))
        final = chunks[i + 1].start - chunk.start if i + 1 < len(chunks) else len(frames)
        held, frames = frames[final:], frames[:final]
        yield from frames
        del frames  # while the next chunk is decoded


@torch.inference_mode()
def decode_clip(vae: Any, latents: Float[Tensor, "frames channels h w"]) -> Float[Tensor, "frames 3 height width"]:
    """Decode frames at once: the plain way."""
    param = next(vae.decoder.parameters())
    z = latents.to(param.device) / vae.config.scaling_factor
    return vae.decode(z.to(param.dtype), num_frames=len(z)).sample.float()


def to_uint8(
    frame: Float[Tensor, "*lead 3 height width"], truncate: bool = False
) -> UInt8[ndarray, "*lead height width 3"]:
    """[-1, 1] to 0..255, clamped, channels last. Rounds to nearest; the published code truncates."""
    # Order of operations as in the published code, so that truncation meets the same values.
    scaled = (frame.float() / 2 + 0.5).clamp(0, 1) * 255
    values = scaled if truncate else scaled.round()
    return np.ascontiguousarray(values.to(torch.uint8).movedim(-3, -1).cpu().numpy())


def decode_stream(
    vae: Any,
    latents: Float[Tensor, "frames channels h w"],
    decode_chunk_size: int = 8,
    *,
    overlap: int | None = None,
    mode: DecodeMode = "blend",
    decode: DecodeClip | None = None,
    finish: Callable[[Iterator[Tensor]], Iterator[Tensor]] | None = None,
) -> Iterator[UInt8[ndarray, "height width 3"]]:
    """Decode latents to RGB frames one by one; arguments as for `decode_float`.

    `finish` changes decoded frames before they become bytes (as `models.detail.add_detail` does).

    "released" also truncates instead of rounding. It decodes all latents given, so drop the reference slot from the
    frames and not from the latents if equality with the published code is wanted.
    """
    frames = decode_float(vae, latents, decode_chunk_size, overlap=overlap, mode=mode, decode=decode)
    if finish is not None:
        frames = finish(frames)
    return _as_uint8(frames, truncate=mode == "released")


def _as_uint8(frames: Iterator[Tensor], truncate: bool) -> Iterator[ndarray]:
    with closing(frames):  # type: ignore[type-var]
        for frame in frames:
            yield to_uint8(frame, truncate)
