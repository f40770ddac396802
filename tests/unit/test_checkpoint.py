from __future__ import annotations

import gzip
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mimicmotion.backbones.svd.checkpoint import PARTS, Components, load_components, save_components
from mimicmotion.backbones.svd.image_encoder import ImageEncoder
from mimicmotion.backbones.svd.posenet import PoseNet
from mimicmotion.backbones.svd.unet import UNet, build_unet
from mimicmotion.backbones.svd.vae import Autoencoder
from mimicmotion.errors import ConfigError, MimicMotionError, OutputError, WeightsError
from mimicmotion.weights import registry as weights
from mimicmotion.weights.locate import find_base, find_checkpoint, read_model_file
from mimicmotion.weights.tensors import check_keys, read_tensors

UNET = {
    "block_out_channels": (32, 64),
    "num_attention_heads": (2, 2),
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
}
CLIP = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 16, "projection_dim": 12,
}  # fmt: skip


def make(seed: int = 0) -> Components:
    torch.manual_seed(seed)
    vae = Autoencoder({"block_out_channels": [32, 32]})
    pose_net = PoseNet(32, (3, 4))
    torch.nn.init.normal_(pose_net.final_proj.weight)
    return Components(build_unet(UNET), vae, ImageEncoder(CLIP), pose_net)


def states(parts: Components) -> dict[str, torch.Tensor]:
    return {f"{p}.{k}": v for p in PARTS for k, v in getattr(parts, p).state_dict().items()}


def same(a: Components, b: Components) -> bool:
    x, y = states(a), states(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def checkpoint_of(parts: Components) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in states(parts).items() if k.startswith(("unet.", "pose_net."))}


@pytest.fixture(scope="module")
def model() -> Components:
    return make()


@pytest.fixture(scope="module")
def folder(model: Components, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "own"
    settings = {"fps": 15, "fusion": {"mode": "progressive"}}
    return save_components(Components(model.unet, model.vae, model.image_encoder, model.pose_net, settings), path)


@pytest.fixture
def svd(folder: Path, tmp_path: Path) -> Path:
    """A base model in SVD's layout: no pose_net/, files of the fp16 variant."""
    path = tmp_path / "svd"
    shutil.copytree(folder, path, ignore=shutil.ignore_patterns("pose_net", "mimicmotion.json"))
    for file in path.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    return path


def test_own_folder_round_trip(model: Components, folder: Path) -> None:
    got = load_components(folder)
    assert same(got, model)
    assert got.settings == {"fps": 15, "fusion": {"mode": "progressive"}}
    assert isinstance(got.unet, UNet)
    assert {p.name for p in folder.iterdir()} == {*PARTS, "model_index.json", "mimicmotion.json", "pipeline.py"}
    assert json.loads((folder / "model_index.json").read_text())["unet"][1] == "UNetSpatioTemporalConditionModel"
    assert not any(m.training for p in PARTS for m in getattr(got, p).modules())
    assert all(p.requires_grad for p in got.unet.parameters())
    assert len(got.files) == 4
    assert all("recorded in" in how for path, _, how in weights.verify(folder) if path.name != "mimicmotion.json")


def test_loaded_model_computes_what_the_saved_one_did(model: Components, folder: Path) -> None:
    got = load_components(folder)
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(got.image_encoder(pixels), model.image_encoder(pixels))
        assert torch.equal(got.vae(pixels), model.vae(pixels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype(model: Components, folder: Path, dtype: torch.dtype) -> None:
    got = states(load_components(folder, dtype=dtype))
    assert {v.dtype for v in got.values()} == {dtype}
    assert all(torch.equal(got[k], v.to(dtype)) for k, v in states(model).items())


def test_save_as_float16_and_replace(model: Components, tmp_path: Path) -> None:
    out = tmp_path / "out"
    save_components(make(1), out)
    save_components(model, out, dtype=torch.float16)
    assert load_file(out / "unet/diffusion_pytorch_model.safetensors")["conv_in.weight"].dtype == torch.float16
    assert torch.equal(load_components(out).unet.conv_in.bias, model.unet.conv_in.bias.half().float())
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_training_in_place_leaves_the_file_alone(folder: Path) -> None:
    file = folder / "pose_net/diffusion_pytorch_model.safetensors"
    before = file.read_bytes()
    net = load_components(folder).pose_net
    with torch.no_grad():
        net.scale.zero_()
    assert file.read_bytes() == before


def test_save_spares_foreign_folders_and_leaves_nothing_half_written(
    model: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not a model of this project"):
        save_components(model, mine)
    assert (mine / "chapter.txt").read_text() == "years of work"
    from mimicmotion.backbones.svd import checkpoint

    def full(*args: object, **kw: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        save_components(model, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoint_on_a_base(model: Components, svd: Path, tmp_path: Path, suffix: str) -> None:
    trained = make(7)
    file = tmp_path / f"MimicMotion{suffix}"
    (torch.save if suffix == ".pth" else save_file)(checkpoint_of(trained), file)
    shutil.rmtree(svd / "unet")  # the base's own U-Net weights are not needed
    (svd / "unet").mkdir()
    (svd / "unet/config.json").write_text(json.dumps(UNET))
    got = load_components(svd, file)
    want = Components(trained.unet, model.vae, model.image_encoder, trained.pose_net)
    assert same(got, want)
    assert file in got.files


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {k.removeprefix("unet."): v for k, v in t.items()},  # as ComfyUI's nodes keep it
        lambda t: {f"module.{k}": v for k, v in t.items()},  # as distributed training saves it
        lambda t: {f"module.{k.removeprefix('unet.')}": v for k, v in t.items()},
    ],
)
def test_checkpoints_of_other_programs(model: Components, svd: Path, tmp_path: Path, change) -> None:
    trained = make(7)
    tensors = change(checkpoint_of(trained))
    save_file(tensors, tmp_path / "c.safetensors")
    torch.save({"state_dict": tensors, "epoch": 3, "optimizer": {"lr": 1e-4}}, tmp_path / "loop.pth")
    want = Components(trained.unet, model.vae, model.image_encoder, trained.pose_net)
    for name in ("c.safetensors", "loop.pth"):
        assert same(load_components(svd, tmp_path / name), want)


def frames_of(parts: Components) -> int:
    return parts.settings["fusion"]["segment_frames"]


@pytest.mark.parametrize(
    ("name", "frames", "words"),
    [
        ("MimicMotion_1-1.safetensors", 16, "by default"),  # names of our own making prove nothing
        ("MimicMotionMergedUnet_1-1-fp16.safetensors", 72, "by its name"),
        pytest.param("mine_2025-01-10.safetensors", 16, "by default", marks=pytest.mark.slow),
        pytest.param("MimicMotionMergedUnet_1-0-fp16.safetensors", 16, "by its name", marks=pytest.mark.slow),
    ],
)
def test_edition_of_an_unknown_file_is_assumed_and_said(
    svd: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, frames: int, words: str
) -> None:
    save_file(checkpoint_of(make(1)), tmp_path / name)
    assert frames_of(load_components(svd, tmp_path / name)) == frames
    assert f"{tmp_path / name} is not a known file: assuming edition" in caplog.text
    assert words in caplog.text
    caplog.clear()
    for edition, right in (("1.0", 16), ("1.1", 72)):
        assert frames_of(load_components(svd, tmp_path / name, edition=edition)) == right
    assert not caplog.text


def test_edition_of_a_known_file_is_found_under_any_name(
    svd: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path / "cache"))
    save_file(checkpoint_of(make(1)), tmp_path / "MimicMotion.pth.safetensors")
    save_file(checkpoint_of(make(2)), tmp_path / "v1.1.safetensors")
    newer, older = tmp_path / "MimicMotion.pth.safetensors", tmp_path / "v1.1.safetensors"
    known = [
        replace(w, files=(weights.HubFile(w.files[0].path, newer.stat().st_size, weights.sha256_file(newer)),))
        if w.name == "mimicmotion-1.1"
        else w
        for w in weights.KNOWN
    ]
    monkeypatch.setattr(weights, "KNOWN", tuple(known))
    record = {"MimicMotion.pth": {"sha256": weights.sha256_file(older), "size": older.stat().st_size}}
    folder = weights.repo_folder("tencent/MimicMotion")
    folder.mkdir(parents=True)
    (folder / "checksums.json").write_text(json.dumps(record))  # what an earlier fetch recorded
    assert frames_of(load_components(svd, newer)) == 72
    assert frames_of(load_components(svd, older)) == 16
    assert not caplog.text


def test_edition_is_refused_for_a_model_with_settings(folder: Path, svd: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave out 'edition'"):
        load_components(folder, edition="1.1")
    shutil.copy(folder / "mimicmotion.json", svd)
    data = json.loads((svd / "mimicmotion.json").read_text()) | {"files": {}}
    (svd / "mimicmotion.json").write_text(json.dumps(data))
    save_file(checkpoint_of(make(1)), tmp_path / "c.safetensors")
    got = load_components(svd, tmp_path / "c.safetensors", edition="1.1")
    assert (frames_of(got), got.settings["fps"]) == (72, 7.0)  # the published checkpoint's, not the base's


def test_pth_is_converted_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import safe_open

    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "source" / "net.pth"
    file.parent.mkdir()
    torch.save(checkpoint_of(make(1)), file)
    tensors = read_tensors(file)
    (copy,) = (tmp_path / "cache" / "converted").iterdir()
    stamp = copy.stat().st_mtime_ns
    read_tensors(file)
    with safe_open(copy, framework="pt") as f:
        assert f.metadata()["source_sha256"] == weights.sha256_file(file)
    os.utime(file, (1, 1))  # touched, but the same content
    read_tensors(file)
    assert copy.stat().st_mtime_ns == stamp
    torch.save(checkpoint_of(make(2)), file)
    assert not torch.equal(read_tensors(file)["pose_net.final_proj.weight"], tensors["pose_net.final_proj.weight"])
    assert list(file.parent.iterdir()) == [file]


def test_tensors_that_share_memory_are_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path / "cache"))
    shared = torch.arange(6.0)
    torch.save({"a": shared[:3], "b": shared[2:5]}, tmp_path / "net.pth")  # safetensors would refuse one storage
    assert read_tensors(tmp_path / "net.pth")["b"].tolist() == [2, 3, 4]
    assert len(list((tmp_path / "cache" / "converted").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder, for root too")
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path / "file"))
    torch.save({"a": torch.arange(3.0)}, tmp_path / "net.pth")
    assert read_tensors(tmp_path / "net.pth")["a"].tolist() == [0, 1, 2]


class Evil:
    def __reduce__(self):
        return os.system, ("echo should never run",)


def write_garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 100)


def write_truncated(path: Path) -> None:
    torch.save(checkpoint_of(make(1)), path)
    path.write_bytes(path.read_bytes()[:-5000])


def write_code(path: Path) -> None:
    path.write_bytes(pickle.dumps({"unet.x": Evil()}, protocol=2))


def write_nested(path: Path) -> None:
    torch.save({"state_dict": {"a": {"b": torch.zeros(1)}}, "epoch": 3}, path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_garbage, "tensors only"),
        (write_truncated, "truncated or damaged|not a plain"),
        (write_code, "will not run code"),
        (write_nested, "flat dictionary of tensors"),
        (lambda p: p.write_bytes(b""), "truncated or damaged"),
    ],
)
def test_damaged_pth(svd: Path, tmp_path: Path, write, words: str) -> None:
    file = tmp_path / "bad.pth"
    write(file)
    with pytest.raises(WeightsError, match=words):
        load_components(svd, file)
    assert not (tmp_path / "bad.pth.safetensors").exists()


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "image_encoder/model"])
def test_truncated_safetensors(folder: Path, tmp_path: Path, part: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / f"{part}.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="copy or fetch it again"):
        load_components(copy)
    (copy / "mimicmotion.json").unlink()  # no sizes recorded: the format itself tells
    with pytest.raises(WeightsError, match="truncated or damaged"):
        load_components(copy)


@pytest.mark.parametrize("part", PARTS)
def test_numbers_that_are_not_finite_are_refused(model: Components, svd: Path, tmp_path: Path, part: str) -> None:
    parts = make(1)
    with torch.no_grad():
        next(getattr(parts, part).parameters()).view(-1)[-1] = torch.nan
    save_components(parts, tmp_path / "bad")
    with pytest.raises(WeightsError, match="contains NaN or infinity") as e:
        load_components(tmp_path / "bad")
    assert f"{part}/" in str(e.value)


def test_numbers_too_large_for_the_number_format_are_refused(svd: Path, tmp_path: Path) -> None:
    tensors = checkpoint_of(make(1))
    tensors["unet.conv_in.bias"][0] = 1e6  # float16 ends at 65504
    save_file(tensors, tmp_path / "c.safetensors")
    with pytest.raises(WeightsError, match="unet: conv_in.bias contains NaN or infinity"):
        load_components(svd, tmp_path / "c.safetensors", dtype=torch.float16)
    load_components(svd, tmp_path / "c.safetensors", dtype=torch.bfloat16)


def damages(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Copies of a file with a few flipped bits, every third one cut off."""
    rng = random.Random(seed)
    for i in range(count):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 3, 30])):
            # half of them near the start, where headers are, or the end, where the directory of a .pth is
            place = rng.choice([rng.randrange(len(data)), rng.randrange(min(300, len(data)))])
            damaged[place if rng.random() < 0.7 else -1 - place % 300 % len(data)] ^= 1 << rng.randrange(8)
        yield bytes(damaged[: rng.randrange(len(data))] if i % 3 == 0 else damaged)


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth", "old.pth"])
def test_damaged_tensors_never_give_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path / "cache"))
    tensors = {"unet.a": torch.arange(60.0).reshape(3, 20), "pose_net.b": torch.ones(7, dtype=torch.float16)}
    path, refused, count = tmp_path / name, 0, 60
    if name == "net.safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=name == "net.pth")
    for data in damages(path.read_bytes(), count, seed=1):
        path.write_bytes(data)
        try:
            read_tensors(path)
        except WeightsError as e:
            refused += str(path) in str(e)
    assert refused >= count / 3  # all that are cut off, at least


@pytest.mark.whole
@pytest.mark.parametrize(
    "name", ["mimicmotion.json", "unet/config.json", "pose_net/config.json", "vae/diffusion_pytorch_model.safetensors"]
)
def test_damaged_files_of_a_model_are_named(folder: Path, tmp_path: Path, name: str) -> None:
    """Each flipped bit is found: the folder knows the checksums. Without them a file is refused or makes a model."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    data = (copy / name).read_bytes()
    for recorded in (True, False):
        for damaged in damages(data, 3, seed=2):
            (copy / name).write_bytes(damaged)
            try:
                load_components(copy, device="meta")
                found = ""
            except MimicMotionError as e:
                found = str(e)
            assert (
                str(copy) in found
                or f"config of {name.partition('/')[0]}" in found
                or (not found and (name == "mimicmotion.json" or not recorded))
            )
        (copy / "mimicmotion.json").unlink(missing_ok=True)
        if name == "mimicmotion.json":
            break


def test_nested_headers_are_refused(shared: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "nested.safetensors"
    path.write_bytes(gzip.decompress(shared("cases/st_nested_header.safetensors.gz").read_bytes()))
    with pytest.raises(WeightsError, match="nested.safetensors"):
        read_tensors(path)
    (tmp_path / "mimicmotion.json").write_text("[" * 100_000)
    with pytest.raises(WeightsError, match=r"mimicmotion\.json"):
        read_model_file(tmp_path)


def rename(tensors: dict, old: str, new: str) -> dict:
    return {k.replace(old, new, 1): v for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {k[9:]: v for k, v in t.items() if k.startswith("pose_net.")}, ["PoseNet alone", "missing"]),
        (lambda t: rename(t, "unet.", "model.diffusion_model."), ["original layout"]),
        (lambda t: {k[5:]: v for k, v in t.items() if k.startswith("unet.")}, ["U-Net alone"]),
        (lambda t: {k: v for k, v in t.items() if k != "unet.conv_in.bias"}, ["1 missing: unet.conv_in.bias"]),
        (lambda t: t | {"unet.more": torch.zeros(1)}, ["1 unexpected: unet.more"]),
        (
            lambda t: t | {"unet.conv_in.bias": torch.zeros(7)},
            ["1 with the wrong shape: unet.conv_in.bias [7] instead of [32]", "other size or kind"],
        ),
        (lambda t: {"step": torch.zeros(1)}, ["MimicMotion_1-1.pth"]),
    ],
)
def test_wrong_checkpoint_lists_its_keys(svd: Path, tmp_path: Path, change, words: list[str]) -> None:
    file = tmp_path / "wrong.safetensors"
    save_file(change(checkpoint_of(make(1))), file)
    with pytest.raises(WeightsError) as e:
        load_components(svd, file)
    for word in words:
        assert word in str(e.value)


def test_long_lists_are_cut_with_their_number() -> None:
    with pytest.raises(WeightsError) as e:
        check_keys({f"k{i}": (1,) for i in range(50)}, {}, "net")
    assert "50 missing: k0, " in str(e.value)
    assert "k9, ..." in str(e.value)
    assert "k10" not in str(e.value)


def test_pose_net_of_another_width(svd: Path, tmp_path: Path) -> None:
    parts = make(1)
    other = Components(parts.unet, parts.vae, parts.image_encoder, PoseNet(64, (3, 4)))
    save_file(checkpoint_of(other), tmp_path / "c.safetensors")
    with pytest.raises(WeightsError, match="64 output channels"):
        load_components(svd, tmp_path / "c.safetensors")


def test_base_without_pose_net(svd: Path) -> None:
    with pytest.raises(WeightsError, match="no pose_net"):
        load_components(svd)
    net = load_components(svd, new_pose_net=True).pose_net
    assert not net(torch.rand(1, 1, 3, 8, 8)).any()


def test_missing_things(svd: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no model folder"):
        load_components(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(WeightsError, match="diffusers' layout"):
        load_components(tmp_path)
    with pytest.raises(WeightsError, match="is a file"):
        load_components(folder / "model_index.json")
    with pytest.raises(WeightsError, match="no checkpoint"):
        load_components(svd, tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="has 0 checkpoints"):
        load_components(svd, tmp_path)
    (svd / "vae/config.json").write_text("{")
    with pytest.raises(WeightsError, match="readable JSON"):
        load_components(svd, new_pose_net=True)
    (svd / "vae/config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(WeightsError, match="config of vae: autoencoder of class AutoencoderKL\n"):
        load_components(svd, new_pose_net=True)
    (svd / "vae/config.json").unlink()
    with pytest.raises(WeightsError, match="config.json is missing"):
        load_components(svd, new_pose_net=True)
    (svd / "unet/diffusion_pytorch_model.fp16.safetensors").rename(svd / "unet/diffusion_pytorch_model.bin")
    shutil.copy(folder / "vae/config.json", svd / "vae/config.json")
    with pytest.raises(WeightsError, match=".bin files"):
        load_components(svd, new_pose_net=True)


def test_hub_ids_are_fetched(svd: Path, model: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name and file, without the U-Net's weights when a checkpoint replaces them."""
    asked: list[str] = []
    torch.save(checkpoint_of(make(3)), tmp_path / "net.pth")

    def fetch_file(repo: str, name: str) -> Path:
        asked.append(f"{repo}/{name}")
        path = tmp_path / name if repo == "someone/mm" else svd / name
        if not path.exists():
            raise WeightsError(f"hub has no {name} (HTTP 404)", "a file", "look")
        return path

    monkeypatch.setattr(weights, "fetch_file", fetch_file)
    got = load_components("someone/svd", "someone/mm/net.pth")
    assert same(got, Components(make(3).unet, model.vae, model.image_encoder, make(3).pose_net))
    assert "someone/svd/unet/diffusion_pytorch_model.fp16.safetensors" not in asked


@pytest.mark.parametrize(
    ("base", "checkpoint", "want"),
    [
        ("svd-xt-1.1", "mimicmotion-1.1", ["svd-xt-1.1", "mimicmotion-1.1"]),
        ("svd-xt-1.1", None, ["svd-xt-1.1-full"]),
        ("stabilityai/stable-video-diffusion-img2vid-xt-1-1", None, ["svd-xt-1.1-full"]),
        ("tiny", None, ["tiny"]),
    ],
)
def test_known_names(base: str, checkpoint: str | None, want: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(weights, "fetch", lambda name: asked.append(name) or Path(name))
    find_base(base, full=checkpoint is None)
    if checkpoint:
        find_checkpoint(checkpoint)
    assert asked == want


def test_meta_device_needs_no_memory(folder: Path) -> None:
    assert {v.device.type for v in states(load_components(folder, device="meta")).values()} == {"meta"}
