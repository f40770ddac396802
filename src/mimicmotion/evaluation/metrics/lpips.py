"""LPIPS (Zhang et al. 2018) between output and true frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics.pixels import AnyFrames, pair
from mimicmotion.evaluation.networks.features import best_device, load_strictly, weights_path

if TYPE_CHECKING:
    from mimicmotion.evaluation.networks.lpips import Lpips

Net = Literal["alex", "vgg"]


def load_lpips(net: Net = "alex", path: Path | str | None = None, *, device: str | None = None) -> Lpips:
    """Load LPIPS: the backbone and its linear layers.

    Args:
        net: "alex" (the usual choice in papers) or "vgg".
        path: file with the weights; by default those of `mimicmotion weights fetch lpips-alex` (or lpips-vgg).
        device: device of the network; by default a GPU if there is one.

    Raises:
        WeightsError: the weights are missing or do not fit.
    """
    file = weights_path(f"lpips-{net}", path)
    import torch

    from mimicmotion.evaluation.networks.lpips import Lpips

    with torch.device("meta"):
        module = Lpips(net)
    load_strictly(module, file)
    return module.to(best_device(device))


def lpips(output: AnyFrames, target: AnyFrames, *, network: Lpips, batch_size: int = 8) -> Float64[ndarray, " frames"]:
    """LPIPS of each frame, without resizing; 0 for equal frames.

    Args:
        output: generated frames, uint8 or float in 0..1 (scaled to [-1, 1] here).
        target: true frames.
        network: network returned by `load_lpips`.
        batch_size: frames per forward pass.

    Raises:
        InputError: different lengths or sizes, frames too small for the network, or malformed ones.
    """
    import torch

    from mimicmotion.evaluation.networks.lpips import MIN_SIZE

    a, b = pair(output, target)
    least = MIN_SIZE[network.net]
    if min(a.shape[1:3]) < least:
        expected = f"at least {least} pixels a side for {network.net}"
        raise InputError(f"frames of {a.shape[1:3]}", expected, "use larger frames")
    device = next(network.parameters()).device
    out = []
    with torch.inference_mode():
        for i in range(0, len(a), batch_size):
            x, y = (
                torch.from_numpy(np.ascontiguousarray(z[i : i + batch_size].transpose(0, 3, 1, 2), np.float32) * 2 - 1)
                for z in (a, b)
            )
            out.append(network(x.to(device), y.to(device)).double().cpu().numpy())
    return np.concatenate(out)
