"""Offloaded weights: when each is on the device, and that results do not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from micro import UNET, fill
from mimicmotion.backbones.svd.execution import offload
from mimicmotion.backbones.svd.execution.memory import weight_bytes
from mimicmotion.backbones.svd.execution.offload import OffloadedBlocks, OffloadedModule, blocks_of
from mimicmotion.backbones.svd.unet import build_unet
from mimicmotion.errors import ConfigError

CPU = torch.device("cpu")  # as a device of its own: copies are made there, too


class Network(nn.Module):
    """Four blocks of different sizes between two layers that stay."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 8 * i), nn.Linear(8 * i, 4)) for i in range(1, 5))

    def forward(self, x: Tensor, chosen: tuple[int, ...] = (0, 1, 2, 3)) -> Tensor:
        x = self.first(x)
        for i in chosen:
            x = self.blocks[i](x)
        return self.last(x)


def network() -> Any:
    return fill(Network(), 0)


X = torch.ones(2, 4)


def watched(net: Any) -> tuple[OffloadedBlocks, list[list[int]]]:
    """The offloaded blocks, and a list that records which are loaded while each block computes."""
    offloaded = OffloadedBlocks(net, list(net.blocks), CPU)
    seen: list[list[int]] = []
    for block in net.blocks:
        block[0].register_forward_pre_hook(lambda *_: seen.append(loaded(offloaded)))
    return offloaded, seen


def loaded(offloaded: OffloadedBlocks) -> list[int]:
    return [i for i, p in enumerate(offloaded.blocks.values()) if p.is_loaded]


def test_the_next_block_comes_while_one_computes_and_there_are_never_more_than_two() -> None:
    net = network()
    want = net(X)
    offloaded, seen = watched(net)
    assert loaded(offloaded) == []
    for _ in range(2):
        offloaded.load()
        assert torch.equal(net(X), want)
        assert loaded(offloaded) == [0], "for the next pass"
    assert seen == 2 * [[0, 1], [1, 2], [2, 3], [0, 3]]
    offloaded.unload()
    assert loaded(offloaded) == []
    assert not offloaded.is_loaded


def test_blocks_may_be_left_out_and_come_in_any_order() -> None:
    net = network()
    orders = [(0, 3), (2, 0, 1), (1, 1), (3,)]
    wanted = [net(X, order) for order in orders]
    offloaded, seen = watched(net)
    offloaded.load()
    for order, want in zip(orders, wanted, strict=True):
        assert torch.equal(net(X, order), want)
    assert max(map(len, seen)) == 2


def test_the_rest_comes_when_it_is_asked_for() -> None:
    net = network()
    before = [p.data_ptr() for p in net.first.parameters()]
    offloaded, _ = watched(net)
    assert [p.data_ptr() for p in net.first.parameters()] == before
    offloaded.load()
    assert not set(before) & {p.data_ptr() for p in net.first.parameters()}
    offloaded.unload()
    assert [p.data_ptr() for p in net.first.parameters()] == before


def test_parameters_stay_the_same_objects_and_the_hosts_weights_the_same_memory() -> None:
    net = network()
    before = [(id(p), p.data_ptr(), p.detach().clone()) for p in net.parameters()]
    offloaded, _ = watched(net)
    offloaded.load()
    with torch.inference_mode():
        net(X)
    net(X)  # with the first block that came in inference mode, whose tensors could not be used here
    offloaded.release()
    assert [(id(p), p.data_ptr()) for p in net.parameters()] == [b[:2] for b in before]
    assert all(torch.equal(p, b[2]) for p, b in zip(net.parameters(), before, strict=True))
    net(X).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_after_an_error_no_block_is_there_and_the_next_pass_is_right() -> None:
    net = network()
    want = net(X)
    offloaded, _ = watched(net)
    offloaded.load()

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    handle = net.blocks[1][1].register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        net(X)
    assert loaded(offloaded) == []
    handle.remove()
    assert torch.equal(net(X), want)


def test_an_error_while_a_block_comes_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    want = net(X)
    offloaded, _ = watched(net)
    offloaded.load()
    room = offload._allocate

    def full(t: Tensor, device: torch.device) -> Tensor:
        if t is net.blocks[2][1].weight:
            raise torch.OutOfMemoryError("no memory")
        return room(t, device)

    monkeypatch.setattr(offload, "_allocate", full)
    with pytest.raises(torch.OutOfMemoryError):
        net(X)
    monkeypatch.undo()
    assert torch.equal(net(X), want)
    offloaded.release()
    assert torch.equal(net(X), want)


def test_released_blocks_no_longer_come() -> None:
    net = network()
    want = net(X)
    offloaded, seen = watched(net)
    offloaded.load()
    net(X)
    offloaded.release()
    assert torch.equal(net(X), want)
    assert seen[4:] == 4 * [[]]


class Late(OffloadedModule):
    """Copies like those of a second stream, which are complete only after waiting for them."""

    missing: Callable[[], None] | None = None

    def _copy(self, pairs: Any) -> None:
        for there, _ in pairs:
            there.fill_(torch.nan)
        self.missing = lambda: [there.copy_(data) for there, data in pairs] and None

    def wait(self) -> None:
        if self.missing is not None:
            self.missing()
            self.missing = None


def test_each_block_is_waited_for_before_it_computes_and_before_its_memory_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = network()
    want, short = net(X), net(X, (0, 3))
    monkeypatch.setattr(offload, "OffloadedModule", Late)
    offloaded, _ = watched(net)
    offloaded.load()
    assert all(torch.equal(net(X), want) for _ in range(2))
    assert torch.equal(net(X, (0, 3)), short)  # what came for nothing goes, but not while it is still being written
    first: Any = offloaded.blocks[net.blocks[0]]
    assert first.missing is not None
    offloaded.unload()
    assert first.missing is None


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="a Linear without blocks"):
        OffloadedBlocks(nn.Linear(2, 2), [], CPU)


def test_blocks_of_the_unet_are_nearly_all_of_it_and_compute_in_this_order() -> None:
    unet: Any = fill(build_unet(UNET), 1)
    order: list[nn.Module] = []
    for block in blocks_of(unet):
        block.register_forward_pre_hook(lambda module, _: order.append(module))
    with torch.no_grad():
        unet(torch.ones(1, 2, 8, 4, 4), torch.tensor(0.3), torch.ones(1, 1, 16), added_time_ids=torch.ones(1, 3))
    assert order == blocks_of(unet)
    assert sum(map(weight_bytes, blocks_of(unet))) > 0.9 * weight_bytes(unet)
