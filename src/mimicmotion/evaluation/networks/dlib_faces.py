"""dlib's face recognition network (King 2017, http://blog.dlib.net/2017/02/high-quality-face-recognition-with-deep.html).

A residual network with 29 convolutions. By dlib's own threshold, 128-dimensional embeddings of the same person are
closer than 0.6.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional

from mimicmotion.evaluation.networks.features import load_strictly
from mimicmotion.weights.sdist import FACE_BLOCKS

MEAN = (122.782, 117.001, 104.298)  # mean colour, RGB, 0..255
HALVING = (3, 7, 10, 13)  # blocks that start by halving the resolution


class DlibFaces(nn.Module):
    """The network as a module, with parameters named as in the file written by `mimicmotion weights fetch faces`."""

    def __init__(self) -> None:
        super().__init__()
        convs, last = [nn.Conv2d(3, 32, 7, 2)], 32
        for k, width in enumerate(FACE_BLOCKS):
            step = 2 if k in HALVING else 1
            convs += [nn.Conv2d(last, width, 3, step, 2 - step), nn.Conv2d(width, width, 3, padding=1)]
            last = width
        self.convs, self.head = nn.ModuleList(convs), nn.Linear(last, 128, bias=False)

    def forward(self, faces: Float[Tensor, "n 3 150 150"]) -> Float[Tensor, "n 128"]:
        """Compute the embeddings of aligned faces (RGB, 0..255)."""
        x = (faces - faces.new_tensor(MEAN)[:, None, None]) / 256
        x = functional.max_pool2d(functional.relu(self.convs[0](x)), 3, 2)
        for first, second in zip(self.convs[1::2], self.convs[2::2], strict=True):
            y = second(functional.relu(first(x)))
            if first.stride == (2, 2):
                x = functional.avg_pool2d(x, 2)
            size = [max(a, b) for a, b in zip(x.shape, y.shape, strict=True)]
            x = functional.relu(_filled(x, size) + _filled(y, size))
        return self.head(x.mean((2, 3)))


def load_dlib(path: Path) -> Callable[[ndarray], ndarray]:
    """Load the network as a function from an aligned face (uint8, 150 x 150 x 3) to its embedding (128).

    Raises:
        WeightsError: the file is damaged or belongs to another network.
    """
    network = load_strictly(DlibFaces, path)

    def run(face: ndarray) -> ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(face.transpose(2, 0, 1)[None].astype(np.float32)))[0].numpy()

    return run


def _filled(x: Tensor, size: list[int]) -> Tensor:
    """Pad channels, rows and columns with zeros at the end, as dlib does to add tensors of different sizes."""
    return functional.pad(
        x, [n for have, want in zip(x.shape[:0:-1], size[:0:-1], strict=True) for n in (0, want - have)]
    )
