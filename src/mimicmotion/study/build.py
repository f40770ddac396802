"""Build the folder of a study from folders of results."""

from __future__ import annotations

import itertools
import random
import re
import secrets
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from mimicmotion.evaluation.reports.listing import list_pictures, list_videos
from mimicmotion.runtime.files import check_writable, writing
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.runtime.reading import reading
from mimicmotion.runtime.run_folder import atomic_folder, check_replaceable_folder
from mimicmotion.settings.study import StudyConfig
from mimicmotion.study.folder import (
    KEY,
    STUDY,
    VIDEOS,
    Key,
    KeyPair,
    KeyVideo,
    PageVideo,
    PairKind,
    Study,
    StudyPair,
)
from mimicmotion.study.sources import StudyVideo, common_sequences, open_study_video, uneven_lengths
from mimicmotion.tables import write_json
from mimicmotion.video.picture import read_picture, write_picture
from mimicmotion.video.writer import open_writer

T = TypeVar("T")

_NOTHING = "\0"  # a pattern that no file has: a folder with anything in it, votes above all, is never replaced
_CRF = 12
COARSE = "coarse copy"
_UNEVEN_FPS = 50.0  # a GIF's times are hundredths of a second; this keeps them to one frame


@dataclass(frozen=True, slots=True)
class BuiltStudy:
    """A built study, where it is, and what its maker should know."""

    study: Study
    key: Key
    output: Path
    warnings: list[str]

    def summary(self) -> str:
        """A few lines for a person to read."""
        key = self.key
        pairs = [p for p in key.pairs.values() if p.baseline]
        sequences, checks = len({p.sequence for p in pairs}), len(key.pairs) - len(pairs)
        videos = [v for v in key.videos.values() if v.method != COARSE]
        encoded = sum(v.encoded_again for v in videos)
        return "\n".join(
            [
                *(f"warning: {line}" for line in self.warnings),
                f"{len(pairs)} pairs: {key.ours} against {', '.join(key.baselines)} in {sequences} sequences"
                + (f"; {checks} practice and catch pairs" if checks else ""),
                f"{len(videos) - encoded} videos copied, {encoded} encoded as H.264 because browsers cannot play them",
                f"key: {self.output / KEY} (keep it from the raters)",
                f"next: mimicmotion serve --study {self.output}",
            ]
        )


@dataclass(frozen=True, slots=True)
class _Inputs:
    videos: dict[tuple[str, str], StudyVideo]  # (method, sequence)
    references: dict[str, Path]
    driving: dict[str, StudyVideo]
    sequences: list[str]
    warnings: list[str]


def build_study(config: StudyConfig) -> Job[BuiltStudy]:
    """Write the folder of a study.

    Videos that browsers play are copied as they are. Others (MPEG-4 of OpenCV, GIF, frames, ...) become H.264 of
    better quality than the writer's visually lossless default, at their own size and rate.

    Raises:
        InputError: a folder lacks sequences, a video cannot be read, names collide.
        OutputError: the folder exists and holds something, or cannot be written.
    """
    check_replaceable_folder(config.output, _NOTHING)
    check_writable(config.output)
    inputs = _open_inputs(config)
    rng = random.Random(config.seed) if config.seed is not None else random.SystemRandom()
    files = len(inputs.videos) + len(inputs.references) + len(inputs.driving) + config.practice + config.catch
    with atomic_folder(config.output, _NOTHING) as part, writing(config.output):
        (part / VIDEOS).mkdir()
        study, key = yield from _build(config, inputs, _Writer(part / VIDEOS, rng, files))
        write_json(part / STUDY, study.as_json())
        (part / STUDY).chmod(0o600)
        write_json(part / KEY, key.as_json())
    copied = [source.path for source in inputs.videos.values() if source.suffix]
    return BuiltStudy(study, key, config.output, inputs.warnings + find_leaks(config, study, copied))


def _open_inputs(config: StudyConfig) -> _Inputs:
    """Find and open everything, so that what is wrong comes up before anything is written."""
    found = {name: list_videos(path) for name, path in config.methods}
    references = list_pictures(config.reference) if config.reference else {}
    driving = list_videos(config.driving) if config.driving else {}
    folders: dict[str, dict[str, Path]] = dict(found)
    # further references or driving videos do no harm, so only lacking ones count
    every = set().union(*found.values())
    for name, extra, given in (("reference", references, config.reference), ("driving", driving, config.driving)):
        if given:
            folders[f"--{name}"] = {k: v for k, v in extra.items() if k in every}
    sequences, missing = common_sequences(folders, skip_missing=config.skip_missing)
    fps = config.folder_fps
    videos = {(m, s): open_study_video(found[m][s], folder_fps=fps) for s in sequences for m in found}
    for s in sequences if references else ():
        read_picture(references[s])
    opened = {s: open_study_video(driving[s], folder_fps=fps) for s in sequences if driving}
    by_sequence = {s: [(name, videos[name, s]) for name in found] for s in sequences}
    warnings = [f"left out: {line}" for line in missing] + uneven_lengths(by_sequence)
    return _Inputs(videos, {s: references[s] for s in sequences if references}, opened, sequences, warnings)


def _build(config: StudyConfig, inputs: _Inputs, writer: _Writer) -> Job[tuple[Study, Key]]:
    shown: dict[tuple[str, str], str] = {}
    for place, source in writer.shuffled(inputs.videos.items()):
        shown[place] = writer.video(source)
        yield writer.progress()
    driving: dict[str, str] = {}
    for sequence, source in inputs.driving.items():
        driving[sequence] = writer.video(source)
        yield writer.progress()
    pictures: dict[str, str] = {}
    for sequence, path in inputs.references.items():
        pictures[sequence] = writer.picture(path)
        yield writer.progress()
    key_videos = {
        shown[place]: KeyVideo(*place, source.path.name, not source.suffix) for place, source in inputs.videos.items()
    }
    pairs, key_pairs = [], {}

    def add(both: Sequence[str], kind: PairKind, key: KeyPair) -> None:
        given = pictures.get(key.sequence, ""), driving.get(key.sequence, "")
        pairs.append(StudyPair(writer.new_id("p"), both[0], both[1], *given, kind))
        key_pairs[pairs[-1].id] = key

    ours, names = config.ours[0], [name for name, _ in config.baselines]
    against = writer.shuffled(itertools.product(inputs.sequences, names))
    turned = writer.shuffled(i % 2 == 0 for i in range(len(against)))  # a rater sees ours on either side equally often
    for (sequence, baseline), turn in zip(against, turned, strict=True):
        both = shown[ours, sequence], shown[baseline, sequence]
        add(both[::-1] if turn else both, "vote", KeyPair(sequence, baseline))
    places = itertools.cycle(writer.shuffled(inputs.videos))
    kinds: tuple[tuple[PairKind, int], ...] = (("practice", config.practice), ("catch", config.catch))
    for kind in (kind for kind, count in kinds for _ in range(count)):
        place = next(places)
        coarse = writer.video(inputs.videos[place], coarse=True)
        yield writer.progress()
        key_videos[coarse] = KeyVideo(COARSE, place[1], "", True)
        add(writer.shuffled([shown[place], coarse]), kind, KeyPair(place[1], better=shown[place]))
    study = Study(
        study=writer.new_id("s"),
        secret=secrets.token_hex(32),
        title=config.title,
        questions=tuple(config.questions),
        ties=config.ties,
        consent=_text(config.consent),
        instructions=_text(config.instructions),
        open=config.open,
        repeat_share=config.repeat_share,
        min_seconds=config.min_seconds,
        pairs=tuple(pairs),
        videos=dict(sorted(writer.videos.items())),
    )
    return study, Key(study.study, ours, tuple(names), key_videos, key_pairs)


def _text(path: Path | None) -> str:
    if path is None:
        return ""
    with reading(path, "a text file", "save it as UTF-8"):
        return path.read_text(encoding="utf-8")


class _Writer:
    """Puts files into the folder of videos under blind names."""

    def __init__(self, folder: Path, rng: random.Random, total: int) -> None:
        self.folder, self.rng, self.total, self.done = folder, rng, total, 0
        self.videos: dict[str, PageVideo] = {}

    def new_id(self, kind: str) -> str:
        return f"{kind}{self.rng.getrandbits(64):016x}"

    def shuffled(self, items: Iterable[T]) -> list[T]:
        listed = list(items)
        return self.rng.sample(listed, len(listed))

    def video(self, source: StudyVideo, coarse: bool = False) -> str:
        name, suffix = self.new_id("v"), "" if coarse else source.suffix
        file = f"{name}{suffix or '.mp4'}"
        if suffix:
            shutil.copyfile(source.path, self.folder / file)
        else:
            _encode(source, self.folder / file, coarse)
        info = source.reader.info
        self.videos[name] = PageVideo(file, info.width, info.height, round(info.duration, 3))
        return name

    def picture(self, path: Path) -> str:
        file = f"{self.new_id('r')}.png"
        write_picture(self.folder / file, read_picture(path))  # without the tags of the original
        return file

    def progress(self) -> Progress:
        self.done += 1
        return Progress("videos", self.done, self.total)


def _encode(source: StudyVideo, path: Path, coarse: bool) -> None:
    """Write a video as H.264, frame by frame at its own size and rate; a coarse one in about 12 blocks across."""
    info = source.reader.info
    fps = _UNEVEN_FPS if info.variable_frame_rate else info.fps
    frames = source.reader.frames(fps=fps if info.variable_frame_rate else None)
    block = max(2, min(info.size) // 12) if coarse else 1
    with open_writer(path, info.size, Fraction(fps).limit_denominator(1001), crf=_CRF) as writer:
        for frame in frames:
            blocks = frame[::block, ::block].repeat(block, 0).repeat(block, 1)
            writer.write(blocks[: frame.shape[0], : frame.shape[1]])


def find_leaks(config: StudyConfig, study: Study, videos: Iterable[Path]) -> list[str]:
    """A line for each place where raters could read the name of a method: the study's texts, the tags of a video.

    Videos are never changed, so a tag stays where it is; a rater sees it only by looking into the file.
    """
    places = {"the title": study.title, "a question": "\n".join(study.questions)}
    places |= {"the consent": study.consent, "the instructions": study.instructions}
    places |= {str(path): _tags(path) for path in videos}
    return [
        f"the name {name} stands in {place}, which raters get"
        for place, text in places.items()
        for name, _ in config.methods
        if re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", text, re.I)
    ]


def _tags(path: Path) -> str:
    import av

    with av.open(str(path.absolute())) as container:
        tags = [container.metadata, *(stream.metadata for stream in container.streams)]
        return "\n".join(str(value) for tag in tags for value in tag.values())
