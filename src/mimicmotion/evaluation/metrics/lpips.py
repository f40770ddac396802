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
    """Trunk and heads of LPIPS.

    Args:
        net: "alex" (what papers mean unless they say otherwise) or "vgg".
        path: weights; default are those of `mimicmotion weights fetch lpips-alex` or `lpips-vgg`.
        device: default is a GPU where there is one.

    Raises:
        WeightsError: the weights are missing or do not fit.
        InputError: another net.
    """
    if net not in ("alex", "vgg"):
        raise InputError(f"net={net!r}", "'alex' or 'vgg'", "correct it")
    file = weights_path(f"lpips-{net}", path)
    import torch

    from mimicmotion.evaluation.networks.lpips import Lpips

    with torch.device("meta"):
        module = Lpips(net)
    load_strictly(module, file)
    return module.to(best_device(device))


def lpips(
    output: AnyFrames,
    target: AnyFrames,
    net: Net = "alex",
    *,
    network: Lpips | None = None,
    batch_size: int = 8,
) -> Float64[ndarray, " frames"]:
    """LPIPS of each frame, at the frames' own size; 0 for equal ones.

    Args:
        output: generated frames, uint8 or float in 0..1 (turned into [-1, 1] here).
        target: true frames.
        net: see `load_lpips`.
        network: one loaded before, to be used instead; saves loading it for every clip.
        batch_size: frames that go through the network at once.

    Raises:
        InputError: different lengths or sizes, frames too small for the network, or malformed ones.
        WeightsError: the weights are not here.
    """
    a, b = pair(output, target)
    if network is None:
        network = load_lpips(net)
    import torch

    from mimicmotion.evaluation.networks.lpips import MIN_SIZE

    least = MIN_SIZE[network.net]
    if min(a.shape[1:3]) < least or batch_size < 1:
        got = f"frames of {a.shape[1:3]}, batch_size={batch_size}"
        raise InputError(got, f"at least {least} pixels a side for {network.net}, batch_size >= 1", "use larger frames")
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
