"""Every command and every Python example of the README and the documentation is run.

`make test` runs the README's and checks that the commands and options of the others exist; `make test-slow` runs all.

Commands are in ```console blocks after "$ ". They run in a folder with the files that the texts mention: person.png,
dance.mp4, and small stand-ins with random weights under the names of the published files.
"""

from __future__ import annotations

import importlib
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
import yaml

from evaluation_clips import folders
from micro import micro_pipeline
from mimicmotion import cli
from mimicmotion.generate import batch
from mimicmotion.pipeline import pipeline
from mimicmotion.serve import app
from mimicmotion.serve.tokens import Tokens
from mimicmotion.settings import GenerateConfig, parse
from mimicmotion.settings.serve import ServeConfig
from mimicmotion.settings.training import TrainConfig
from mimicmotion.video.reader import open_video
from mimicmotion.video.writer import open_writer
from mimicmotion.weights.registry import find_asset

pytestmark = pytest.mark.usefixtures("small_model", "scenes_are_made_once")
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TRANSLATED = ROOT / "README.zh-CN.md"
STAND_IN = "stable-video-diffusion-img2vid-xt-1-1"
STAND_INS = {"svd-xt-1.1": STAND_IN, "mimicmotion-1.1": "MimicMotion_1-1.pth"}
"""Stand in for weights that commands name; test_published_weights.py fetches them."""
SIZE = (640, 360)
# Commands that need the network or install things: they are checked in parts, but not run.
NOT_RUN = ("git clone", "cd ", "pip ", "python3 -m venv", "mimicmotion weights fetch", "mimicmotion serve --study")
# Commands for docker, which tests do not have, and beside them; what they run is tested in test_containers.py.
CONTAINERS = ("docker ", "DEVICE=cuda docker ", "echo POSTGRES_PASSWORD=", "ln -s $PWD/integrations/comfyui ")

# Commands that take hours or larger models: their settings are checked.
LONG = ("mimicmotion train --recipe", "mimicmotion ablate --recipe")


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            found.append((page.relative_to(ROOT).as_posix().removeprefix("docs/"), block))
    return found


LINES = [(page, line) for page, block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
PAGE_OF: dict[str, str] = {}
for _page, _line in LINES:
    PAGE_OF.setdefault(_line[2:].strip(), _page)  # first page of a command
COMMANDS = [
    pytest.param(
        page, command, marks=[pytest.mark.slow] * (page != "README.md" and command.startswith(("mimi", "curl")))
    )
    for command, page in PAGE_OF.items()
]
EXAMPLES = blocks("python")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path) -> Path:
    """The folder in which a reader would type the commands."""
    place = tmp_path_factory.mktemp("docs")
    shutil.copy(find_asset("demo/person.png"), place / "person.png")
    for path, fps, taken in (("dance.mp4", 10.0, {"fps": 6.0, "max_frames": 6}),
                             ("videos/dance.mp4", 5.0, {"fps": 10.0, "max_frames": 11})):  # fmt: skip
        with open_writer(place / path, SIZE, fps) as writer:
            for frame in open_video(find_asset("demo/driving.mp4")).frames(**taken):
                writer.write(cv2.resize(frame, SIZE[::-1], interpolation=cv2.INTER_AREA))
    folders(place / "clips", suffix=".mp4")
    (place / "others.csv").write_text("method,metric,value\nothers,psnr,20.5\n")
    pipe = micro_pipeline()
    pipe.backbone.settings |= {"height": 96, "width": 64}
    pipe.save_pretrained(place / STAND_IN)
    weights = {f"unet.{k}": v for k, v in pipe.backbone.unet.state_dict().items()}
    weights |= {f"pose_net.{k}": v for k, v in pipe.backbone.pose_net.state_dict().items()}
    torch.save(weights, place / "MimicMotion_1-1.pth")
    for network in (shared_folder / "parity" / "tiny_dwpose").glob("*.onnx"):  # random weights
        shutil.copy(network, place / network.name)
    return place


@pytest.fixture(scope="module")
def small_model(folder: Path, bundled_once: None) -> Iterator[None]:
    """In place of the bundled model, which other tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "find_asset", lambda _: folder / STAND_IN)
        yield


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[str]:
    """Address of a running service, which makes all jobs with a small stand-in."""
    (folder / "settings.yaml").write_text(f"model: {STAND_IN}\nnum_inference_steps: 2\n")
    command = [sys.executable, "-m", "mimicmotion.cli", "serve", "--data", "docs-data", "--port", "0"]
    command += ["--settings", "settings.yaml"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        with urllib.request.urlopen(f"{url}/v1/health") as answer:
            assert json.load(answer) == {"status": "ok"}
        yield url
        process.terminate()
        assert process.wait() == 0


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10
    assert set(PAGE_OF.values()) >= {"README.md", "guide/first-video.md", "guide/poses.md", "guide/weights.md"}


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{p}: {c[:60]}" for c, p in PAGE_OF.items()])
def test_command(
    page: str, command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if command.startswith("make "):
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert {word for word in command.split()[1:] if "=" not in word} <= set(targets)
        return
    if command.startswith(CONTAINERS):
        for name in re.findall(r"-f (\S+)", command):
            assert (ROOT / name).is_file()
        if found := re.search(r" (?:mimicmotion(?::cuda)?|service) ((?:generate|doctor|serve) .*|doctor)$", command):
            parsed(f"mimicmotion {found[1]}")
        return
    if command.startswith((*NOT_RUN, *LONG)):
        check_unrun(command)
        return
    if command.startswith("curl "):
        run_curl(command, request.getfixturevalue("service"), folder)
        return
    if command.startswith("mimicmotion serve") and "--database" in command:  # test_serve_survives.py runs one
        parsed(command)
        return
    if command.startswith(("python benchmarks/", "python scripts/")):
        assert (ROOT / command.split()[1]).is_file()
        return
    assert command.startswith("mimicmotion "), f"{page}: do not know how to test {command!r}"
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MIMICMOTION_CACHE", str(folder / "cache"))
    importlib.import_module("huggingface_hub.constants")  # which keeps what the environment says when it is imported
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # dwpose stays away
    # the fixture `service` starts one, and test_batch.py starts processes
    monkeypatch.setattr(app, "serve", lambda settings, tell: app.create_app(replace(settings, page=False)))
    monkeypatch.setattr(batch, "_run_locally", lambda _, jobs: ((i, *batch._run_job(job)) for i, job in jobs.items()))
    argv = [STAND_INS.get(a, a) for a in shlex.split(command)[1:]]
    prepare(argv, folder)
    assert cli.main(argv) == 0, command
    for option in ("-o", "--draw"):
        if option in argv:
            assert (folder / argv[argv.index(option) + 1]).exists()


def parsed(command: str) -> None:
    """Fail unless the command and its options exist."""
    cli.app.parse_args(shlex.split(command)[1:], print_error=False, exit_on_error=False)


def test_commands_and_options_exist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    prepare_yaml(folder)
    for command in PAGE_OF:
        if command.startswith("mimicmotion "):
            parsed(command)


def run_curl(command: str, url: str, folder: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    words = [word.replace("http://127.0.0.1:8000", url) for word in shlex.split(command)]
    done = subprocess.run([*words, "-sS", "--fail-with-body"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    json.loads(done.stdout)


def check_unrun(command: str) -> None:
    if command.startswith("pip install"):
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for named in re.findall(r"\[([a-z,]+)\]", command):
            assert set(named.split(",")) <= set(extras)
    if command.startswith(LONG):
        from mimicmotion.settings.training import load_config
        from mimicmotion.training.ablation import load_ablation

        words = shlex.split(command)
        name = words[words.index("--recipe") + 1]
        overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        assert load_config(name, overrides).run if words[1] == "train" else load_ablation(name).run
    if command.startswith("mimicmotion weights fetch"):
        from mimicmotion.weights.registry import known

        assert known(command.rsplit(maxsplit=1)[-1]).repo


def put(argv: list[str], **options: str) -> None:
    """Give a command these options."""
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if option in argv:
            argv[argv.index(option) + 1] = value
        else:
            argv += [option, value]


def prepare(argv: list[str], folder: Path) -> None:
    """Create the files that earlier commands of the page would have made, and keep sampling short."""
    if "--detector" in argv and not (folder / "yolox_l.onnx").exists():
        pytest.skip("needs networks of DWPose's form, which no package ships (set MIMICMOTION_SHARED)")
    if argv[0] == "generate" and "--config" not in argv:
        put(argv, num_inference_steps="1", duration="0.2")
    if argv[:2] == ["weights", "convert"] and (folder / argv[argv.index("-o") + 1]).exists():
        shutil.rmtree(folder / argv[argv.index("-o") + 1])
    if "published" in argv and argv[0] == "generate" and not (folder / "published").exists():
        cli.main(["weights", "convert", STAND_IN, "MimicMotion_1-1.pth", "-o", "published"])
    if "poses.npz" in argv[:3] and argv[0] == "generate" and not (folder / "poses.npz").exists():
        cli.main(["poses", "dance.mp4", "-o", "poses.npz"])
    if argv[0] == "replay" and not (folder / "result.mp4.json").exists():
        cli.main(["generate", "person.png", "dance.mp4", "-o", "result.mp4"])
    if argv[0] == "inspect" and not (folder / argv[1]).exists():
        cli.main(["generate", "person.png", "dance.mp4", "-o", argv[1], "--label", "signed", "--duration", "0.4"])
    if argv[:4] == ["serve", "token", "revoke", "anna"] and not Tokens(folder / "serve-data").all():
        Tokens(folder / "serve-data").add("anna", "jobs")
    if "0.0.0.0" in argv:
        Tokens(folder / "serve-data").add("somebody", "read")
    if argv[0] == "study":
        prepare_study(argv, folder)
    if argv[0] == "figures":
        for result in ("average.mp4", "progressive.mp4"):
            shutil.copy(folder / "dance.mp4", folder / result)
        (folder / "results").mkdir(exist_ok=True)
        bar = {"mean": 0.8, "low": 0.7, "high": 0.9, "n": 6}
        (folder / "results" / "summary.json").write_text(json.dumps({"ours": {"ssim": bar, "psnr": bar}}))
    if "model=clips/model" in argv:
        argv.remove("lpips")  # needs a network
        for name, there in (("model", "ours"), ("warp", "theirs"), ("copy", "theirs")):
            shutil.copytree(folder / "clips" / there, folder / "clips" / name, dirs_exist_ok=True)
    if argv[:3] == ["figures", "bars", "report"]:  # metrics that need networks or people are not in this report
        argv[:] = [*argv[: argv.index("--metric")], "--metric", "psnr"]
        (folder / "docs" / "images").mkdir(parents=True, exist_ok=True)
    if (argv[0] == "compare" or argv[:3] == ["figures", "bars", "report"]) and not (folder / "report").exists():
        clips = [f"ours={folder / 'clips' / 'ours'}", "--metrics", "psnr"]
        cli.main(["evaluate", "--real", str(folder / "clips" / "real"), "--generated", *clips, "-o", "report"])
    if argv[:2] == ["prepare", "synthetic"]:
        argv[2] = "4" if "--held-out" in argv else "2"
        put(argv, frames="4", processes="1", height="64", width="64")
    prepare_yaml(folder)
    people = [
        "prepare",
        "synthetic",
        "4",
        "-o",
        "few-people",
        "--height",
        "64",
        "--width",
        "64",
        "--held-out",
        "1",
        "--frames",
        "4",
    ]
    if "first.yaml" in argv and not (folder / "few-people").exists():
        cli.main(people)
    if "--model" in argv and "runs/first" in argv[-1] and not (folder / "runs" / "first").exists():
        if not (folder / "few-people").exists():
            cli.main(people)
        cli.main(["train", "first.yaml"])


def prepare_yaml(folder: Path) -> None:
    for _, block in blocks("yaml"):
        if name := re.match(r"# (\w+\.yaml)\n", block):
            (folder / name[1]).write_text(block)


def prepare_study(argv: list[str], folder: Path) -> None:
    """Results of three methods, and for an analysis a built study with the votes of two people."""
    from mimicmotion.study.folder import load_key, load_study
    from mimicmotion.study.votes import VoteStore
    from study_clips import vote

    for method in ("mimicmotion", "magicpose", "moore"):
        shutil.copytree(folder / "videos", folder / "results" / method, dirs_exist_ok=True)
    (folder / "pictures").mkdir(exist_ok=True)
    shutil.copy(folder / "person.png", folder / "pictures" / "dance.png")
    study = folder / "study"
    if argv[1] == "build":
        shutil.rmtree(study, ignore_errors=True)
        return
    if not study.exists():
        options = [f"--baseline={name}=results/{name}" for name in ("magicpose", "moore")]
        assert cli.main(["study", "build", "--ours=mimicmotion=results/mimicmotion", *options, "-o", "study"]) == 0
    loaded = load_study(study)
    key = load_key(study, loaded)
    for name in ("anna", "ben"):
        votes = [vote(key, name, pair, name == "anna", repeat=r) for pair in key.pairs for r in (0, 1)]
        VoteStore(study / "votes.sqlite", loaded).add(votes)


def test_yaml_examples_are_valid() -> None:
    for _, block in blocks("yaml"):
        data = yaml.safe_load(block)
        kind = TrainConfig if "run" in data else ServeConfig if "devices" in data else GenerateConfig
        files = {"picture": "a.png", "video": "b.mp4", "output": "c.mp4"} if kind is GenerateConfig else {}
        for job in data.get("jobs", [data]):
            parse(kind, files | data.get("defaults", {}) | job)


@pytest.mark.parametrize(
    ("page", "block"),
    [pytest.param(*found, marks=[pytest.mark.slow] * (found[0] != "README.md")) for found in EXAMPLES],
    ids=[f"{page}-{number}" for number, (page, _) in enumerate(EXAMPLES)],
)
def test_python_examples_run(
    page: str,
    block: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(folder / "person.png", tmp_path)
    with open_writer(tmp_path / "dance.mp4", SIZE, 15.0) as writer:  # three frames, since they are read many times
        for frame in itertools.islice(open_video(folder / "dance.mp4"), 3):
            writer.write(frame)
    url = request.getfixturevalue("service") if "http://127.0.0.1:8000" in block else ""
    exec(compile(block.replace("http://127.0.0.1:8000", url), page, "exec"), {})


def test_pictures_of_the_pages_exist() -> None:
    for page in (*PAGES, TRANSLATED):
        for target in re.findall(r"!\[[^]]*\]\(([^)#]+)\)|<img[^>]*src=\"([^\"]+)\"", page.read_text(encoding="utf-8")):
            name = target[0] or target[1]
            if not name.startswith("http"):
                assert (page.parent / name).is_file(), f"{page.name}: {name}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in (*PAGES, TRANSLATED):
        for name in re.findall(r"(?<!!)\[[^]]*\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not name.startswith(("http", "mailto:")):
                assert (page.parent / name).exists(), f"{page.name}: {name}"
