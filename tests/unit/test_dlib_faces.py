"""dlib's face network: shapes, and files of another network. Its numbers on real faces: tests/parity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mimicmotion.errors import WeightsError
from mimicmotion.evaluation.metrics.identity import FaceNetwork
from mimicmotion.evaluation.networks.dlib_faces import DlibFaces


def test_a_saved_network_embeds_a_face(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = DlibFaces()
    save_file(network.state_dict(), tmp_path / "faces.safetensors")
    loaded = FaceNetwork(tmp_path / "faces.safetensors")
    face = np.random.default_rng(0).integers(0, 256, (loaded.side, loaded.side, 3), np.uint8)
    with torch.no_grad():
        want = network(torch.from_numpy(face.transpose(2, 0, 1)[None].astype(np.float32)))[0].numpy()
    assert loaded.dim == 128
    np.testing.assert_allclose(loaded.embed(face), want / np.linalg.norm(want), rtol=1e-4, atol=1e-6)


def test_blocks_that_halve_add_what_fits() -> None:
    """Where a block halves, the input is averaged in twos and filled up with zeros, in channels and at the edges."""
    network = DlibFaces().eval()
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    network.convs[0].bias.data += 1.0  # so that 32 channels of 35 x 35 ones go through blocks that add nothing
    network.head.weight.data[:, :32] = torch.eye(128, 32)
    out = network(torch.zeros(1, 3, 150, 150))[0]
    assert torch.allclose(out[:32], torch.ones(32))
    assert not out[32:].any()


def test_files_of_another_network(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="does not fit"):
        FaceNetwork(tmp_path / "other.safetensors")
