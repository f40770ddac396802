"""Build the folder of a study from folders of results."""

from __future__ import annotations

import itertools
import random
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from mimicmotion.errors import InputError, MediaError
from mimicmotion.evaluation.videos import list_pictures, list_videos
from mimicmotion.runtime.files import check_writable, writing
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.runtime.reading import reading
from mimicmotion.runtime.run_folder import atomic_folder, check_replaceable_folder
from mimicmotion.settings.study import StudyConfig
from mimicmotion.study.folder import KEY, VIDEOS, Key, KeyPair, KeyVideo, PageVideo, PairKind, Study, StudyPair, save
from mimicmotion.video.picture import read_picture, write_picture
from mimicmotion.video.reader import VideoReader, open_video
from mimicmotion.video.writer import open_writer

T = TypeVar("T")
P = TypeVar("P")
S = TypeVar("S")

NO_FILE = "\0"
"""A pattern that matches no file, so that a folder with any content, such as votes, is never replaced."""
CRF = 12
COARSE = "coarse copy"
VARIABLE_FPS = 50.0
"""Frame rate for videos of a variable rate. GIF times are multiples of 1/100 s, which this keeps to within a frame."""
PLAYED = {
    ".mp4": ("h264", "vp9", "av1", "libdav1d"),
    ".m4v": ("h264",),
    ".mov": ("h264",),
    ".webm": ("vp8", "vp9", "av1", "libdav1d"),
}
"""Codecs that all current browsers play, by file suffix."""
PIXEL_FORMATS = ("yuv420p", "yuvj420p")


@dataclass(frozen=True, slots=True)
class BuiltStudy:
    """A built study, its folder, and warnings."""

    study: Study
    key: Key
    output: Path
    warnings: list[str]

    def summary(self) -> str:
        """Summary for the user: warnings, what was built, and the command to run next."""
        key = self.key
        pairs = [p for p in key.pairs.values() if p.baseline]
        sequences, checks = len({p.sequence for p in pairs}), len(key.pairs) - len(pairs)
        videos = [v for v in key.videos.values() if v.method != COARSE]
        encoded = sum(v.encoded_again for v in videos)
        lines = [f"warning: {line}" for line in self.warnings]
        lines += [
            f"{len(pairs)} pairs: {key.ours} against {', '.join(key.baselines)} in {sequences} sequences"
            + (f"; {checks} practice and catch pairs" if checks else ""),
            f"{len(videos) - encoded} videos copied, {encoded} encoded as H.264 because browsers cannot play them",
            f"key: {self.output / KEY} (keep it secret from the raters)",
            f"next: mimicmotion serve --study {self.output}",
        ]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class StudyVideo:
    """A video of a method, or a driving video.

    Attributes:
        path: file or folder of frames.
        reader: opened video.
        suffix: suffix of the copy; "" if browsers cannot play the file, so that it has to be encoded.
    """

    path: Path
    reader: VideoReader
    suffix: str


@dataclass(frozen=True, slots=True)
class _Inputs:
    videos: dict[tuple[str, str], StudyVideo]  # (method, sequence)
    references: dict[str, Path]
    driving: dict[str, StudyVideo]
    sequences: list[str]
    warnings: list[str]


def build_study(config: StudyConfig) -> Job[BuiltStudy]:
    """Build the folder of a study.

    Videos that browsers can play are copied. Others (MPEG-4 written by OpenCV, GIF, folders of frames, ...) are encoded
    as H.264 at their own size and rate, with a higher quality than the writer's visually lossless default.

    Raises:
        InputError: a folder lacks sequences, or a video cannot be read.
        OutputError: the output folder is not empty, or cannot be written.
    """
    check_replaceable_folder(config.output, NO_FILE)
    check_writable(config.output)
    inputs = _open_inputs(config)
    rng = random.Random(config.seed) if config.seed is not None else random.SystemRandom()
    files = len(inputs.videos) + len(inputs.references) + len(inputs.driving) + config.practice + config.catch
    with atomic_folder(config.output, NO_FILE) as part, writing(config.output):
        (part / VIDEOS).mkdir()
        study, key = yield from _build(config, inputs, _Writer(part / VIDEOS, rng, files))
        save(part, study, key)
    return BuiltStudy(study, key, config.output, inputs.warnings)


def _open_inputs(config: StudyConfig) -> _Inputs:
    """Find and open all inputs, so that errors are raised before anything is written."""
    found = {name: list_videos(path) for name, path in config.methods}
    references = list_pictures(config.reference) if config.reference else {}
    driving = list_videos(config.driving) if config.driving else {}
    folders: dict[str, dict[str, Path]] = dict(found)
    every = set().union(*found.values())
    for name, extra in (("--reference", references), ("--driving", driving)):
        if extra:  # additional references or driving videos are ignored
            folders[name] = {k: v for k, v in extra.items() if k in every}
    sequences, missing = _common_sequences(folders, skip_missing=config.skip_missing)
    fps = config.folder_fps
    videos = {(m, s): _open_video(found[m][s], fps) for s in sequences for m in found}
    references = {s: references[s] for s in sequences if references}
    for path in references.values():
        read_picture(path)
    opened = {s: _open_video(driving[s], fps) for s in sequences if driving}
    warnings = [f"left out: {line}" for line in missing]
    for s in sequences:
        lengths = {name: videos[name, s].reader.info.duration for name in found}
        if min(lengths.values()) < 0.9 * max(lengths.values()):
            listed = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in lengths.items())
            warnings.append(f"{s}: {listed}; the shorter one stops on its last frame")
    return _Inputs(videos, references, opened, sequences, warnings)


def _build(config: StudyConfig, inputs: _Inputs, writer: _Writer) -> Job[tuple[Study, Key]]:
    shown = yield from writer.all(writer.video, dict(writer.shuffled(inputs.videos.items())))
    driving = yield from writer.all(writer.video, inputs.driving)
    pictures = yield from writer.all(writer.picture, inputs.references)
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
    swapped = writer.shuffled(i % 2 == 0 for i in range(len(against)))  # ours is on either side equally often
    for (sequence, baseline), swap in zip(against, swapped, strict=True):
        both = shown[ours, sequence], shown[baseline, sequence]
        add(both[::-1] if swap else both, "vote", KeyPair(sequence, baseline))
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
    """Writes files to the folder of videos under random names."""

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
        write_picture(self.folder / file, read_picture(path))  # without the metadata of the original
        return file

    def all(self, write: Callable[[S], str], sources: Mapping[P, S]) -> Job[dict[P, str]]:
        """Write all sources, and return the name of each."""
        names = {}
        for place, source in sources.items():
            names[place] = write(source)
            yield self.progress()
        return names

    def progress(self) -> Progress:
        self.done += 1
        return Progress("videos", self.done, self.total)


def _encode(source: StudyVideo, path: Path, coarse: bool) -> None:
    """Encode a video as H.264 at its own size and rate; a coarse copy has about 12 blocks along its short side."""
    info = source.reader.info
    fps = VARIABLE_FPS if info.variable_frame_rate else info.fps
    frames = source.reader.frames(fps=fps if info.variable_frame_rate else None)
    block = max(2, min(info.size) // 12) if coarse else 1
    with open_writer(path, info.size, Fraction(fps).limit_denominator(1001), crf=CRF) as writer:
        for frame in frames:
            blocks = frame[::block, ::block].repeat(block, 0).repeat(block, 1)
            writer.write(blocks[: frame.shape[0], : frame.shape[1]])


# --- inputs -------------------------------------------------------------------------------------------------------


def _common_sequences(folders: Mapping[str, Mapping[str, Path]], *, skip_missing: bool) -> tuple[list[str], list[str]]:
    """Sequences that all folders have, and a message for each one missing from a folder.

    Args:
        folders: name of each folder, for messages, to its sequences.
        skip_missing: skip incomplete sequences instead of raising an error.

    Raises:
        InputError: a folder lacks sequences, or there is no common sequence.
    """
    every = sorted(set().union(*folders.values()))
    missing = [f"{name} has no {s}" for s in every for name, found in folders.items() if s not in found]
    common = [s for s in every if all(s in found for found in folders.values())]
    if missing and (not skip_missing or not common):
        got = "; ".join(missing[:10]) + (f"; and {len(missing) - 10} more" if len(missing) > 10 else "")
        fix = "add the files, or skip these sequences with --skip-missing" if common else "rename the files"
        raise InputError(got, "the same names in all folders", fix)
    return common, missing


def _open_video(path: Path, folder_fps: float) -> StudyVideo:
    """Open a video, and decide whether browsers can play it."""
    reader = open_video(path, folder_fps=folder_fps)
    suffix = path.suffix.lower()
    played = path.is_file() and reader.info.codec in PLAYED.get(suffix, ()) and _pixel_format(path) in PIXEL_FORMATS
    # browsers play QuickTime files with H.264 if they are named .mp4
    return StudyVideo(path, reader, suffix.replace(".m4v", ".mp4").replace(".mov", ".mp4") if played else "")


def _pixel_format(path: Path) -> str | None:
    import av

    try:
        with av.open(str(path.absolute())) as container:
            return container.streams.video[0].codec_context.pix_fmt
    except (av.error.FFmpegError, IndexError) as e:
        raise MediaError(f"{path} cannot be read ({e})", "a video", "check it in a player") from e
