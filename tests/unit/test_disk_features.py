from __future__ import annotations

import errno
import gc
from typing import Any

import pytest
import torch

from mimicmotion.backbones.svd.pose_features import DiskFeatures
from mimicmotion.errors import OutputError


def test_the_file_goes_with_the_object() -> None:
    features = DiskFeatures("cpu")
    file = features.file
    del features
    gc.collect()
    assert file.closed


def test_a_full_disk_is_reported_with_a_fix() -> None:
    class Full:
        def write(self, data: memoryview) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    features: Any = DiskFeatures("cpu")
    features.file.close()
    features.file = Full()
    with pytest.raises(OutputError, match="free some space"):
        features.add(torch.zeros(2, 3))
    assert len(features) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_a_tensor_come_back_bit_by_bit(dtype: torch.dtype) -> None:
    rows = torch.randn(7, 3, 2, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    buffered = DiskFeatures("cpu")
    buffered.add(rows[:4])
    buffered.add(rows[4:].transpose(1, 2).contiguous().transpose(1, 2))
    assert len(buffered) == 7
    got = buffered.frames([6, 0, 0, 3])
    assert got.dtype == dtype
    assert torch.equal(got, rows[None, [6, 0, 0, 3]])
    got[:] = 0  # what is handed out may be changed
    assert torch.equal(buffered.frames([0]), rows[None, :1])
