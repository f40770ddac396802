"""A whole ablation on a toy model with the public command: training runs, measurement, table; stopped and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from micro import micro_pipeline
from mimicmotion import cli
from mimicmotion.training.ablation import load_ablation, start_folder

SIZE = {"height": 48, "width": 32}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to start from and people."""
    folder = tmp_path_factory.mktemp("material")
    pipe = micro_pipeline()
    pipe.backbone.settings |= SIZE | {"pose_drawing": {"canvas_short_side": None, "stroke": 4.0}, "sigmas": [80.0, 0.0]}
    pipe.backbone.settings |= {"guidance_scale": 1.0, "num_inference_steps": 1}
    pipe.save_pretrained(folder / "start")
    people = ["prepare", "synthetic", "3", "-o", str(folder / "people"), "--frames", "4"]
    assert cli.main([*people, "--height", "48", "--width", "32"]) == 0
    return folder


@pytest.fixture
def config(material: Path, tmp_path: Path) -> Path:
    train = {
        "data": {
            "shards": str(material / "people"),
            "workers": 0,
            "sample": {"num_frames": 3, "spacing": "spread", "detector_noise": 1.0},
        },
        "optim": {"steps": 2, "batch": 1, "lr": 1e-3, "warmup": 0},
        "validation": {"every": 0},
        "trackers": [],
        "cpu": True,
        "threads": 1,
        "precision": "no",
    }
    settings = {
        "run": str(tmp_path / "runs"),
        "start": str(material / "start"),
        "seeds": [4],
        "test": {"clips": 2, "frames": 3, "conditions": ["detector", "planted"]},
        "train": train,
    }
    path = tmp_path / "ablation.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.slow
def test_a_whole_ablation(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ablate", str(config)]) == 0
    table = Path(capsys.readouterr().out.strip().splitlines()[-1])
    text = table.read_text()
    assert all(f"| {arm} |" in text for arm in ("none", "hand", "confidence", "both", "interaction"))
    runs = table.parent
    scores = {p.parent.name: p for p in runs.glob("*/scores.json")}
    assert set(scores) == {"none-4", "hand-4", "confidence-4", "both-4"}
    rows = json.loads(scores["both-4"].read_text())
    assert {(r["clip"], r["condition"]) for r in rows} == {
        (c, k) for c in (3000, 3001) for k in ("detector", "planted")
    }
    # all arms see the same people in the same poses: only what was trained differs
    assert len({p.read_text() for p in scores.values()}) == 4
    assert not (runs / "none-4" / "checkpoints" / "step-00000002" / "state").exists()

    # only what is missing is done again
    before = {name: path.stat().st_mtime_ns for name, path in scores.items()}
    scores["hand-4"].unlink()
    old = text
    assert cli.main(["ablate", str(config)]) == 0
    assert table.read_text() == old
    after = {name: path.stat().st_mtime_ns for name, path in scores.items()}
    assert {n for n in after if after[n] != before[n]} == {"hand-4"}


def test_starts_share_the_unet_and_have_fresh_pose_nets_of_their_own(config: Path) -> None:
    from mimicmotion.backbones.svd.checkpoint import load_components
    from mimicmotion.training.ablation import make_start

    ablation = load_ablation(config)
    one, two = (load_components(make_start(ablation, seed)) for seed in (4, 5))
    again = load_components(start_folder(ablation, 4))
    old = load_components(ablation.start)

    def same(a, b):
        pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
        return all(x.shape == y.shape and bool((x == y).all()) for x, y in pairs)

    assert same(one.unet, old.unet)
    assert same(two.unet, old.unet)
    assert same(one.pose_net, again.pose_net)
    assert not same(one.pose_net, two.pose_net)
    assert not same(one.pose_net, old.pose_net)
