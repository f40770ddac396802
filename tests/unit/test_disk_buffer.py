from __future__ import annotations

import errno
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion.backbones.svd.pose_features import DiskFeatures
from mimicmotion.errors import OutputError
from mimicmotion.runtime.files import DiskBuffer


@given(pieces=st.lists(st.binary(max_size=50), max_size=20))
def test_pieces_come_back_in_any_order(pieces: list[bytes]) -> None:
    buffer = DiskBuffer()
    for piece in pieces:
        buffer.add(piece)
    assert len(buffer) == len(pieces)
    assert [buffer[i] for i in reversed(range(len(pieces)))] == pieces[::-1]
    assert list(buffer) == pieces
    for outside in (len(pieces), -len(pieces) - 1):
        with pytest.raises(IndexError):
            buffer[outside]


def test_many_threads_may_read() -> None:
    buffer = DiskBuffer()
    for i in range(200):
        buffer.add(bytes([i]) * 1000)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: buffer[i], [*range(200)] * 3))
    assert found == [bytes([i]) * 1000 for i in range(200)] * 3


def test_the_file_goes_with_the_object() -> None:
    buffer = DiskBuffer()
    file = buffer._file
    del buffer
    gc.collect()
    assert file.closed


def test_a_full_disk_is_reported_with_a_cure() -> None:
    class Full:
        def seek(self, place: int) -> None:
            pass

        def write(self, data: memoryview) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    buffer = DiskBuffer()
    buffer._file.close()
    buffer._file = Full()
    with pytest.raises(OutputError, match="free some space"):
        buffer.add(b"data")
    assert len(buffer) == 0


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
