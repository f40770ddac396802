"""Error of decoding in spatial tiles, against whole frames: `python benchmarks/decode_tiles.py`.

The bundled autoencoder on the demo's picture, for several tiles and overlaps; one JSON line. A few seconds.
"""

from __future__ import annotations

import json
import math
import platform
import sys

import torch

from mimicmotion.backbones.svd import decode
from mimicmotion.backbones.svd.checkpoint import load_part
from mimicmotion.backbones.svd.pose_features import to_unit
from mimicmotion.backbones.svd.vae import encode_mode
from mimicmotion.video.picture import read_picture
from mimicmotion.weights.registry import find_asset

SCALE = 2


def main() -> None:
    vae = load_part(find_asset("tiny"), "vae")
    picture = to_unit(read_picture(find_asset("demo/person.png"))[None])
    picture = torch.nn.functional.interpolate(picture, size=(224 * SCALE, 128 * SCALE), mode="bicubic").clamp(-1, 1)
    latents = encode_mode(vae, picture) * vae.config.scaling_factor
    whole = decode.decode_frames(vae, latents).clamp(-1, 1)
    found = {}
    for side in (8, 12, 16):
        for overlap in (0.0, 0.125, 0.25, 0.5):
            decode.TILE_OVERLAP = overlap
            tiled = decode.decode_frames(vae, latents, tile=side * vae.downscale).clamp(-1, 1)
            error = float((tiled - whole).square().mean()) / 4
            psnr = None if error == 0 else round(-10 * math.log10(error), 1)
            found[f"{side} latents, overlap {overlap}"] = psnr
    row = {
        "bench": "decode_tiles",
        "psnr_to_whole_frame": found,
        "size": list(picture.shape[-2:]),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
