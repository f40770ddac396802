"""The nodes of ComfyUI: always with small stand-ins, and with a checkout of ComfyUI if there is one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mimicmotion
from comfy_stand_ins import FOLDER, ComfyUI, InterruptProcessingException, VideoFromFile
from mimicmotion.errors import ConfigError, PoseError
from mimicmotion.settings import GenerateConfig, field_help
from mimicmotion.video.reader import open_video
from mimicmotion.video.writer import open_writer
from mimicmotion.weights.registry import find_asset
from scripts_of_repository import load

pytestmark = pytest.mark.usefixtures("small_bundled")
FRAMES = 3
SHORT = {"duration": FRAMES / 15, "num_inference_steps": 2}
MADE = {"seed": "INT", "speed": "COMBO", "num_inference_steps": "INT"}
NUMBERS = {"fps": "FLOAT", "start": "FLOAT", "duration": "FLOAT", "tempo": "FLOAT", "video_fps": "FLOAT"}
WORKFLOWS = sorted((FOLDER / "api_workflows").glob("*.json"))
STABLE: dict[str, tuple[dict[str, str], list[tuple[str, str]]]] = {
    "MimicMotionLoad": (
        {"model": "STRING", "checkpoint": "STRING", "edition": "COMBO", "device": "STRING"}
        | {"dtype": "COMBO", "quantize": "COMBO"},
        [("model", "MIMICMOTION_MODEL")],
    ),
    "MimicMotionPoses": (
        {
            "source": "IMAGE,VIDEO",
            "model": "MIMICMOTION_MODEL",
            **NUMBERS,
            "estimator": "COMBO",
            "person": "STRING",
            "detector": "STRING",
        }
        | {"pose_model": "STRING", "pose_device": "COMBO"},
        [("poses", "MIMICMOTION_POSES"), ("fps", "FLOAT")],
    ),
    "MimicMotionAlign": (
        {"model": "MIMICMOTION_MODEL", "image": "IMAGE"}
        | {"image_poses": "MIMICMOTION_POSES", "poses": "MIMICMOTION_POSES", "height": "INT", "width": "INT"}
        | {"fit": "COMBO", "align": "COMBO", "confidence_aware": "BOOLEAN", "face": "COMBO"}
        | {"body": "BOOLEAN", "hands": "BOOLEAN"},
        [("aligned", "MIMICMOTION_ALIGNED"), ("poses", "IMAGE")],
    ),
    "MimicMotionSample": (
        {"model": "MIMICMOTION_MODEL", "aligned": "MIMICMOTION_ALIGNED", **MADE}
        | {"sampler": "COMBO", "schedule": "COMBO", "guidance_scale": "FLOAT", "min_guidance_scale": "FLOAT"}
        | {"max_guidance_scale": "FLOAT", "guidance_interval_low": "FLOAT", "guidance_interval_high": "FLOAT"}
        | {"guidance_every": "INT", "segment_frames": "INT", "overlap_frames": "INT", "fusion": "COMBO"}
        | {"block_cache": "FLOAT", "noise_aug_strength": "FLOAT", "motion_bucket_id": "FLOAT", "memory": "FLOAT"}
        | {"offload": "COMBO", "compile": "BOOLEAN", "sigmas": "SIGMAS"},
        [("latents", "MIMICMOTION_LATENTS")],
    ),
    "MimicMotionDecode": (
        {"model": "MIMICMOTION_MODEL", "latents": "MIMICMOTION_LATENTS", "decode_chunk_size": "INT"}
        | {"background": "COMBO"},
        [("images", "IMAGE")],
    ),
    "MimicMotionSave": (
        {"images": "IMAGE", "fps": "FLOAT", "label": "COMBO", "producer": "STRING", "signer": "STRING"}
        | {"filename_prefix": "STRING", "format": "COMBO"},
        [("video", "VIDEO")],
    ),
    "MimicMotionAnimate": (
        {"image": "IMAGE", "source": "IMAGE,VIDEO", "model": "MIMICMOTION_MODEL"}
        | {"height": "INT", "width": "INT", **NUMBERS, "estimator": "COMBO", "align": "COMBO", "fit": "COMBO", **MADE}
        | {"guidance_scale": "FLOAT", "segment_frames": "INT", "overlap_frames": "INT", "decode_chunk_size": "INT"}
        | {"background": "COMBO", "audio": "BOOLEAN", "label": "COMBO", "producer": "STRING", "signer": "STRING"}
        | {"filename_prefix": "STRING"},
        [("video", "VIDEO")],
    ),
}
"""Inputs and outputs by node. Saved workflows refer to them: some may be added, none changed."""


@pytest.fixture
def ui(tmp_path: Path) -> ComfyUI:
    made = ComfyUI(tmp_path)
    shutil.copy(find_asset("demo/person.png"), tmp_path / "input" / "person.png")
    shutil.copy(find_asset("demo/driving.mp4"), tmp_path / "input" / "dance.mp4")
    return made


def workflow(name: str, **settings: Any) -> dict[str, Any]:
    """An example workflow, with settings of the nodes that have them, those of a short video unless told."""
    nodes = json.loads((FOLDER / "api_workflows" / f"{name}.json").read_text())
    for node in nodes.values():
        names = STABLE[node["class_type"]][0] if node["class_type"] in STABLE else {}
        node["inputs"] |= {k: v for k, v in (SHORT | settings).items() if k in names}
    return nodes


def made_by(nodes: dict[str, Any], kind: str, done: dict[str, tuple[Any, ...]]) -> tuple[Any, ...]:
    return next(done[number] for number, node in nodes.items() if node["class_type"] == kind)


def frames_of(path: str | Path) -> np.ndarray:
    return np.stack(list(open_video(path).frames()))


def test_ids_inputs_and_sockets_stay(ui: ComfyUI) -> None:
    found = {}
    for name, node in ui.nodes.items():
        schema = node.define_schema()
        inputs = {i.id: i.get_io_type() for i in schema.inputs}
        found[name] = (inputs, [(o.display_name, o.io_type) for o in schema.outputs])
        assert schema.category == "MimicMotion"
        assert schema.description
    assert found == STABLE


def test_inputs_are_the_settings(ui: ComfyUI) -> None:
    helps = field_help(GenerateConfig)
    job = ui.part("settings").job_settings
    for node in ui.nodes.values():
        shown = {i.id: i for i in node.define_schema().inputs}
        assert job(node.settings.values({k: i.facts.get("default") for k, i in shown.items()})) == job({})
        for name in set(helps) & set(shown):
            assert shown[name].optional or not shown[name].is_widget
            if shown[name].is_widget:
                assert shown[name].facts["tooltip"].startswith(helps[name])
    sample = {i.id: i.facts for i in ui.nodes["MimicMotionSample"].define_schema().inputs}
    assert [sample["num_inference_steps"][k] for k in ("default", "min", "max")] == [-1, -1, 1000]
    assert sample["schedule"]["options"] == ["default", "karras", "ays"]
    given = {"num_inference_steps": 5, "schedule": "ays", "guidance_scale": -1.0, "speed": "fast"}
    given |= {"guidance_interval_low": 0.5, "guidance_interval_high": 60.0, "motion_bucket_id": -1}
    values = ui.nodes["MimicMotionSample"].settings.values(given)
    assert values == {
        **{"num_inference_steps": 5, "schedule": "ays", "speed": "fast"},
        **{"guidance_interval": (0.5, 60.0), "motion_bucket_id": -1},
    }
    with pytest.raises(ConfigError, match="motion_bucket_id=-1"):
        job(values)


def test_images_convert_both_ways(ui: ComfyUI) -> None:
    frames = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    images = ui.part("api").to_images(frames)
    assert (images.dtype, tuple(images.shape)) == (torch.float32, (2, 3, 4, 3))
    assert images.min() == 0
    assert images.max() == np.float32(71 / 255)
    assert np.array_equal(ui.part("api").to_frame(images[1]), frames[1])
    transparent = torch.cat([images[1], torch.full((3, 4, 1), 0.5)], -1)
    assert np.array_equal(ui.part("api").to_frame(transparent), frames[1])


def test_a_part_of_a_video_is_not_taken_for_the_whole(ui: ComfyUI, tmp_path: Path) -> None:
    path, api = tmp_path / "video.mp4", ui.part("api")
    with open_writer(path, (64, 48), 15.0) as writer:
        for grey in range(0, 240, 8):
            writer.write(np.full((64, 48, 3), grey, np.uint8))
    assert api.as_file(VideoFromFile(str(path)), tmp_path, 15) == path
    part = api.as_file(VideoFromFile(str(path), start_time=1.0), tmp_path, 15)
    assert part.parent == tmp_path
    assert len(frames_of(part)) == 15


def test_the_chain_and_the_one_node_make_what_generate_makes(ui: ComfyUI, tmp_path: Path) -> None:
    steps, one = workflow("steps"), workflow("animate")
    done = ui.run(steps)
    (saved,), (images,) = (made_by(steps, f"MimicMotion{kind}", done) for kind in ("Save", "Decode"))
    (video,) = made_by(one, "MimicMotionAnimate", ui.run(one))
    result = mimicmotion.animate(
        find_asset("demo/person.png"), find_asset("demo/driving.mp4"), tmp_path / "want.mp4", **SHORT
    )
    want = frames_of(result.path)
    assert want.shape == (FRAMES, 112, 64, 3)
    assert np.array_equal(frames_of(saved.file), want)
    assert np.array_equal(frames_of(video.file), want)
    assert tuple(images.shape) == want.shape
    assert (2, 2) in ui.progress  # steps
    assert Path(video.file).with_name(Path(video.file).name + ".json").is_file()  # the record
    assert not list((tmp_path / "temp").iterdir())


def test_results_are_labelled(ui: ComfyUI) -> None:
    from mimicmotion.generate.inspect import inspect

    for name, kind in (("steps", "MimicMotionSave"), ("animate", "MimicMotionAnimate")):
        nodes = workflow(name, producer="somebody", label="visible")
        (video,) = made_by(nodes, kind, ui.run(nodes))
        assert "somebody" in inspect(Path(video.file)).summary()
        lower = frames_of(video.file)[:, -30:]
        assert lower.max() > 240  # white letters, which the plain result has not


def test_an_interruption_ends_the_work_and_leaves_nothing(ui: ComfyUI, tmp_path: Path) -> None:
    for nodes in (workflow("steps"), workflow("animate")):
        ui.progress.clear()
        ui.interrupt_at = 3
        with pytest.raises(InterruptProcessingException):
            ui.run(nodes)
        assert len(ui.progress) == 3
        assert not [p for folder in ("output", "temp") for p in (tmp_path / folder).rglob("*") if p.is_file()]


def test_frames_one_by_one_and_hidden_parts(ui: ComfyUI) -> None:
    nodes = workflow("steps")
    by_kind = {node["class_type"]: number for number, node in nodes.items()}
    upto = {k: v for k, v in nodes.items() if v["class_type"] not in ("MimicMotionSample", "MimicMotionDecode")}
    del upto[by_kind["MimicMotionSave"]]
    aligned, drawn = ui.run(upto)[by_kind["MimicMotionAlign"]]
    assert tuple(drawn.shape) == (FRAMES, 112, 64, 3)
    upto[by_kind["MimicMotionAlign"]]["inputs"] |= {"body": False, "face": "none"}
    _, hands = ui.run(upto)[by_kind["MimicMotionAlign"]]
    assert 0 < (hands > 0.1).sum() < 0.5 * (drawn > 0.1).sum()

    frames = list(open_video(find_asset("demo/driving.mp4")).frames(fps=15, max_frames=FRAMES))
    poses, fps = ui.nodes["MimicMotionPoses"].execute(source=ui.part("api").to_images(frames), video_fps=15.0).args
    assert (len(poses), fps) == (FRAMES, 15.0)
    wrong = {"image": torch.zeros(1, 64, 64, 3), "image_poses": poses, "poses": poses, "model": aligned}
    wrong["model"] = ui.run(upto)[by_kind["MimicMotionLoad"]][0]
    with pytest.raises(PoseError, match="connect image_poses"):
        ui.nodes["MimicMotionAlign"].execute(**wrong)
    with pytest.raises(PoseError, match="no person found in 'source'"):
        ui.nodes["MimicMotionPoses"].execute(source=torch.full((1, 96, 96, 3), 0.5))


def test_noise_levels_of_another_node(ui: ComfyUI) -> None:
    nodes = workflow("steps")
    number = next(k for k, node in nodes.items() if node["class_type"] == "MimicMotionSample")
    del nodes[number]["inputs"]["num_inference_steps"]
    nodes[number]["inputs"]["sigmas"] = torch.tensor([80.0, 5.0, 0.0])
    (latents,) = ui.run(nodes)[number]
    assert latents.recipe.sigmas.tolist() == [80.0, 5.0, 0.0]
    assert latents.step.total == 2


def test_the_workflows_are_those_of_the_script(tmp_path: Path) -> None:
    assert [path.stem for path in WORKFLOWS] == ["animate", "steps"]
    for name, text in load("scripts/comfyui_workflows.py").files().items():
        assert (FOLDER / name).read_text() == text, "run scripts/comfyui_workflows.py"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_both_forms_of_a_workflow_are_the_same_graph(path: Path, ui: ComfyUI) -> None:
    nodes = json.loads(path.read_text())
    graph = json.loads((FOLDER / "example_workflows" / path.name).read_text())
    links = {number: (str(start), slot, kind) for number, start, slot, _, _, kind in graph["links"]}
    assert {str(n["id"]): n["type"] for n in graph["nodes"]} == {k: v["class_type"] for k, v in nodes.items()}
    for node in graph["nodes"]:
        given = nodes[str(node["id"])]["inputs"]
        joined = {i["name"]: list(links[i["link"]][:2]) for i in node["inputs"] if i["link"] is not None}
        assert joined == {k: v for k, v in given.items() if isinstance(v, list)}
        for i in node["inputs"]:
            assert i["link"] is None or links[i["link"]][2] in i["type"].split(",")
        if node["type"] in ui.nodes:
            schema = ui.nodes[node["type"]].define_schema()
            names = [n for i in schema.inputs if i.is_widget for n in ([i.id, ""] if i.id == "seed" else [i.id])]
            values = dict(zip(names, node["widgets_values"], strict=True))  # behind the seed stands what comes after it
            assert values | given == values | {k: v for k, v in given.items() if isinstance(v, list)}


def test_the_package_for_the_registry() -> None:
    facts = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    assert facts["project"]["version"] == mimicmotion.__version__
    assert facts["project"]["dependencies"] == (FOLDER / "requirements.txt").read_text().split("\n")[:-1]
    assert set(facts["tool"]["comfy"]) >= {"PublisherId", "DisplayName"}


@pytest.mark.parametrize("name", ["steps", "animate"])
def test_with_comfyui_itself(name: str, tmp_path: Path) -> None:
    """Tests ComfyUI's loader, workflow checks and executor, which do not use torchvision and the like here."""
    place = os.environ.get("COMFYUI_DIR")
    if not place:
        pytest.skip("needs a checkout of ComfyUI (set COMFYUI_DIR)")
    for folder in ("input", "output", "temp"):
        (tmp_path / folder).mkdir()
    shutil.copy(find_asset("demo/person.png"), tmp_path / "input" / "person.png")
    shutil.copy(find_asset("demo/driving.mp4"), tmp_path / "input" / "dance.mp4")
    (tmp_path / "workflow.json").write_text(json.dumps(workflow(name)))
    program = [sys.executable, "-W", "ignore", str(Path(__file__).parents[1] / "comfyui_run.py"), place, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip(f"ComfyUI cannot be imported here: {done.stdout.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert sorted(facts["nodes"]) == sorted(STABLE)
    assert facts["widgets"] == {n: list(inputs) for n, (inputs, _) in STABLE.items()}
    (file,) = facts["files"]
    assert frames_of(tmp_path / "output" / file).shape == (FRAMES, 320, 192, 3)
    assert facts["interrupted"] == ["execution_interrupted"]
