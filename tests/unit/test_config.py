from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion import cli
from mimicmotion.diffusion.recipe import make_recipe
from mimicmotion.errors import ConfigError, InputError, MimicMotionError, OutputError, WeightsError
from mimicmotion.settings import (
    FusionConfig,
    GenerateConfig,
    MaskConfig,
    PosesConfig,
    SamplingOptions,
    field_help,
    find_recipe,
    load_yaml,
    parse,
    person_choice,
    recipes,
)
from mimicmotion.settings.evaluation import EvaluateConfig
from mimicmotion.settings.prepare import PrepareConfig

REQUIRED = {"picture": "a.png", "video": "b.mp4", "output": "c.mp4"}

fusions = st.integers(1, 40).flatmap(
    lambda n: st.builds(FusionConfig, segment_frames=st.just(n), overlap_frames=st.integers(0, n - 1))
)


@given(config=fusions)
def test_config_round_trips(config: FusionConfig) -> None:
    assert parse(FusionConfig, json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_generate_config_round_trips_through_plain_data() -> None:
    config = parse(GenerateConfig, REQUIRED | {"seed": 7, "fusion": "average"})
    plain = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    assert parse(GenerateConfig, plain) == config
    assert config.picture == Path("a.png")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"sed": 1}, "did you mean seed"),
        ({"seed": "x"}, "seed = 'x'"),
        ({"fps": 0}, "fps=0"),
        ({"fps": float("nan")}, "fps=nan"),
        ({"tempo": -1}, "tempo=-1"),
        ({"person": "bob"}, "person='bob'"),
        ({"fusion": "magic"}, "progressive"),
        ({"segment_frames": 4, "overlap_frames": 4}, "set overlap_frames to at most 3"),
        ({"height": 128}, "both or neither"),
        ({"height": 0, "width": 64}, "height=0"),
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
        ({"guidance_scale": -1}, "guidance_scale=-1"),
        ({"audio": True, "tempo": 0.5}, "audio with tempo=0.5"),
        ({"stride": 0}, "stride=0"),
        ({"height": 10**400, "width": 64}, "height=1000"),
        ({"start": -2}, "start=-2"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(GenerateConfig, REQUIRED | wrong)


def test_missing_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="no 'video'"):
        parse(GenerateConfig, {"picture": "a.png", "output": "c.mp4"})


@pytest.mark.parametrize(
    ("text", "means"),
    [("largest", "largest"), ("2", 2), ("320,20.5", (320.0, 20.5)), ("1,2,3,4", (1.0, 2.0, 3.0, 4.0))],
)
def test_person_choice(text: str, means: object) -> None:
    assert person_choice(text) == means


@pytest.mark.parametrize("cls", [FusionConfig, GenerateConfig, MaskConfig, PosesConfig])
def test_every_field_has_a_help_text(cls: type) -> None:
    helps = field_help(cls)
    assert {f.name for f in dataclasses.fields(cls)} == set(helps)
    assert all(text.endswith(".") for text in helps.values())


def test_yaml(tmp_path: Path) -> None:
    good = tmp_path / "run.yaml"
    good.write_text("seed: 3\nfusion: none\n")
    # YAML 1.1 would read a bare `none` as the string, and `null` as nothing
    assert load_yaml(good) == {"seed": 3, "fusion": "none"}
    for text in ("- a\n- b\n", "a: [1\n", ""):
        good.write_text(text)
        with pytest.raises(ConfigError, match=r"run\.yaml"):
            load_yaml(good)
    with pytest.raises(ConfigError, match="check the path"):
        load_yaml(tmp_path / "missing.yaml")


def test_errors_say_three_things_and_travel_between_processes() -> None:
    e = ConfigError("x=1", "x=2", "set x")
    assert str(e) == "x=1\n  expected: x=2\n  fix: set x"
    again = pickle.loads(pickle.dumps(e))
    assert str(again) == str(e)
    assert isinstance(again, ConfigError)
    assert issubclass(ConfigError, InputError)
    assert issubclass(InputError, ValueError)
    for cls in (OutputError, WeightsError):
        assert issubclass(cls, MimicMotionError)
        assert "fix: c" in str(pickle.loads(pickle.dumps(cls("a", "b", "c"))))


def test_recipes_are_found_by_name_and_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    known = recipes()
    assert {"paper-8gpu", "finetune-24gb-lora", "ablation-tiny"} <= known.keys()
    assert find_recipe("paper-8gpu") == known["paper-8gpu"]
    assert find_recipe(tmp_path / "mine.yaml") == tmp_path / "mine.yaml"
    with pytest.raises(ConfigError, match="did you mean paper-8gpu"):
        find_recipe("paper-8gpus")
    assert cli.main(["recipes"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(known)
    assert all(len(line.split()) > 3 for line in listed)
    assert cli.main(["recipes", "paper-8gpu"]) == 0
    assert capsys.readouterr().out == known["paper-8gpu"].read_text()


UNUSED: list[tuple[type, dict[str, Any], str]] = [
    (GenerateConfig, {"detector": "a.onnx", "estimator": "holistic"}, "detector=a.onnx with estimator=holistic"),
    (PosesConfig, {"pose_model": "a.onnx"}, "pose_model=a.onnx with estimator=holistic"),
    (PosesConfig, {"confidence_aware": False}, "confidence_aware=False without draw"),
    (PosesConfig, {"stride": 3}, "stride=3 with sampling=time"),
    (MaskConfig, {"sampling": "released", "tempo": 2}, "tempo=2.0 with sampling=released"),
    (GenerateConfig, {"fusion": "none", "overlap_frames": 4}, "overlap_frames=4 with fusion=none"),
    (GenerateConfig, {"audio": True, "output": "a.gif"}, "audio=True with an output that has no sound"),
    (
        GenerateConfig,
        {"guidance_scale": 2, "min_guidance_scale": 1, "max_guidance_scale": 3},
        "guidance_scale=2.0 with min_guidance_scale and max_guidance_scale",
    ),
    (PrepareConfig, {"detector": "a.onnx"}, "detector=a.onnx with estimator=holistic"),
    (EvaluateConfig, {"identity": "r", "metrics": ["psnr"]}, "identity=r without the metric identity"),
    (EvaluateConfig, {"driving": "d", "metrics": ["psnr"]}, "driving=d without the metric poses"),
    (EvaluateConfig, {"metrics": ["psnr"], "fid": "f.pt"}, "fid=f.pt without the metric fid"),
    (EvaluateConfig, {"metrics": ["psnr"], "i3d": "i.safetensors"}, "i3d=i.safetensors without the metric fvd"),
    (EvaluateConfig, {"metrics": ["psnr"], "borders": [4]}, r"borders=\[4\] without the metric seams"),
    (EvaluateConfig, {"metrics": ["psnr"], "fd_infinity": True}, "fd_infinity=True without the metric fvd or"),
]
NEEDED: dict[type, dict[str, Any]] = {
    GenerateConfig: {"picture": "p.png", "video": "v.mp4", "output": "o.mp4"},
    PosesConfig: {"video": "v.mp4", "output": "o.npz"},
    MaskConfig: {"video": "v.mp4", "output": "o.npz"},
    PrepareConfig: {"videos": "v", "output": "o"},
    EvaluateConfig: {"real": "r", "generated": {"a": "g"}, "output": "o"},
}


@pytest.mark.parametrize(("cls", "settings", "says"), UNUSED, ids=[s[:40] for _, _, s in UNUSED])
def test_options_without_effect_are_refused(cls: type, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"{says}.*has no effect"):
        parse(cls, NEEDED[cls] | settings)
    parse(cls, NEEDED[cls])


def test_options_of_guidance_without_guidance_are_refused() -> None:
    for name, value in (("guidance_every", 2), ("guidance_interval", (0.4, 60.0))):
        options = SamplingOptions(**{name: value}, guidance_scale=1)
        with pytest.raises(ConfigError, match=f"{name}=.* with a guidance of 1"):
            make_recipe(4, options, {}, reference_slot=True)
        make_recipe(4, SamplingOptions(**{name: value}), {}, reference_slot=True)  # the default is 2
    make_recipe(4, SamplingOptions(speed="fast", guidance_scale=1), {}, reference_slot=True)  # the tier's own are left
