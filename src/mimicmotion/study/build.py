"""Build the folder of a study from folders of results."""

from __future__ import annotations

import itertools
import random
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from mimicmotion.evaluation.reports.listing import list_pictures, list_videos
from mimicmotion.runtime.files import check_writable, writing
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.runtime.run_folder import atomic_folder, check_replaceable_folder
from mimicmotion.settings.study import StudyConfig
from mimicmotion.study.folder import (
    INDEX,
    KEY,
    PAGE,
    STUDY,
    VIDEOS,
    Key,
    KeyPair,
    KeyVideo,
    PageVideo,
    Study,
    StudyPair,
)
from mimicmotion.study.page import render_page
from mimicmotion.study.sources import StudyVideo, common_sequences, open_study_video, uneven_lengths
from mimicmotion.tables import write_json, write_text
from mimicmotion.video.picture import read_picture, write_picture
from mimicmotion.video.writer import open_writer

T = TypeVar("T")

_NOTHING = "\0"  # a pattern that no file has: a folder with anything in it, votes above all, is never replaced
_CRF = 12
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
        study, key = self.study, self.key
        sequences = len({p.sequence for p in key.pairs.values()})
        encoded = sum(v.encoded_again for v in key.videos.values())
        return "\n".join(
            [
                *(f"warning: {line}" for line in self.warnings),
                f"{len(study.pairs)} pairs: {key.ours} against {', '.join(key.baselines)} in {sequences} sequences",
                f"{len(key.videos) - encoded} videos copied, "
                f"{encoded} encoded as H.264 because browsers cannot play them",
                f"page: {self.output / PAGE} (can be hosted as it is)",
                f"key: {self.output / KEY} (keep it from the raters)",
                f"next: mimicmotion study serve {self.output}",
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
    files = len(inputs.videos) + len(inputs.references) + len(inputs.driving)
    with atomic_folder(config.output, _NOTHING) as part, writing(config.output):
        (part / PAGE / VIDEOS).mkdir(parents=True)
        study, key = yield from _build(config, inputs, _Writer(part / PAGE, rng, files))
        write_json(part / PAGE / STUDY, study.as_json())
        write_text(part / PAGE / INDEX, render_page(study))
        write_json(part / KEY, key.as_json())
    copied = [source.path for source in inputs.videos.values() if source.suffix]
    return BuiltStudy(study, key, config.output, inputs.warnings + find_leaks(config, copied))


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
    pairs, key_pairs = [], {}
    ours, names = config.ours[0], [name for name, _ in config.baselines]
    for sequence, baseline in writer.shuffled(itertools.product(inputs.sequences, names)):
        a, b = writer.shuffled([shown[ours, sequence], shown[baseline, sequence]])
        pair = StudyPair(writer.new_id("p"), a, b, pictures.get(sequence, ""), driving.get(sequence, ""))
        pairs.append(pair)
        key_pairs[pair.id] = KeyPair(sequence, baseline)
    study = Study(
        study=writer.new_id("s"),
        title=config.title,
        question=config.question,
        repeat_share=config.repeat_share,
        min_seconds=config.min_seconds,
        pairs=tuple(pairs),
        videos=dict(sorted(writer.videos.items())),
    )
    key_videos = {
        shown[method, sequence]: KeyVideo(method, sequence, source.path.name, not source.suffix)
        for (method, sequence), source in inputs.videos.items()
    }
    return study, Key(study.study, ours, tuple(names), key_videos, key_pairs)


class _Writer:
    """Puts files into the page under blind names."""

    def __init__(self, page: Path, rng: random.Random, total: int) -> None:
        self.page, self.rng, self.total, self.done = page, rng, total, 0
        self.videos: dict[str, PageVideo] = {}

    def new_id(self, kind: str) -> str:
        return f"{kind}{self.rng.getrandbits(64):016x}"

    def shuffled(self, items: Iterable[T]) -> list[T]:
        listed = list(items)
        return self.rng.sample(listed, len(listed))

    def video(self, source: StudyVideo) -> str:
        name = self.new_id("v")
        file = f"{VIDEOS}/{name}{source.suffix or '.mp4'}"
        if source.suffix:
            shutil.copyfile(source.path, self.page / file)
        else:
            _encode(source, self.page / file)
        info = source.reader.info
        self.videos[name] = PageVideo(file, info.width, info.height, round(info.duration, 3))
        return name

    def picture(self, path: Path) -> str:
        file = f"{VIDEOS}/{self.new_id('r')}.png"
        write_picture(self.page / file, read_picture(path))  # without the tags of the original
        return file

    def progress(self) -> Progress:
        self.done += 1
        return Progress("videos", self.done, self.total)


def _encode(source: StudyVideo, path: Path) -> None:
    """Write a video that browsers do not play as H.264, frame by frame at its own size and rate."""
    info = source.reader.info
    fps = _UNEVEN_FPS if info.variable_frame_rate else info.fps
    frames = source.reader.frames(fps=fps if info.variable_frame_rate else None)
    with open_writer(path, info.size, Fraction(fps).limit_denominator(1001), crf=_CRF) as writer:
        for frame in frames:
            writer.write(frame)


def find_leaks(config: StudyConfig, videos: Iterable[Path]) -> list[str]:
    """A line for each place where raters could read the name of a method: title, question, the tags of a video.

    Videos are never changed, so a tag stays where it is; a rater sees it only by looking into the file.
    """
    places = {"the title": config.title, "the question": config.question}
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
