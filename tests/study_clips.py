"""Small result folders and votes for the tests of the user study."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mimicmotion.runtime.progress import finish
from mimicmotion.settings.study import StudyConfig
from mimicmotion.study.build import build_study
from mimicmotion.study.folder import Key, Study
from mimicmotion.study.votes import Vote
from mimicmotion.video.writer import open_writer

OURS, BASELINES = "Firstmethod", ("Secondmethod", "Thirdmethod")


def clip(path: Path, shade: int, frames: int = 8, size: tuple[int, int] = (64, 48)) -> Path:
    """A video of a bar that moves, in a shade of its own."""
    with open_writer(path, size, 8.0) as writer:
        for i in range(frames):
            frame = np.full((*size, 3), shade, np.uint8)
            frame[:, 4 * i : 4 * i + 8] = 255 - shade
            writer.write(frame)
    return path


def result_folders(root: Path, sequences: tuple[str, ...] = ("walk", "turn"), suffix: str = ".mp4") -> StudyConfig:
    """Folders of results of three methods and the settings of a study of them."""
    for m, method in enumerate((OURS, *BASELINES)):
        for s, sequence in enumerate(sequences):
            clip(root / method / f"{sequence}{suffix}", 40 * m + 20 * s)
    return StudyConfig(
        ours=(OURS, root / OURS),
        baselines=[(b, root / b) for b in BASELINES],
        output=root / "study",
        repeat_share=0.25,
        min_seconds=0.1,
        seed=3,
    )


def build(config: StudyConfig) -> tuple[Study, Key]:
    """Build a study to its end."""
    built = finish(build_study(config))
    return built.study, built.key


def vote(key: Key, rater: str, pair: str, ours: bool, *, ours_left: bool = True, repeat: int = 0) -> Vote:
    """A vote for our method or for the baseline."""
    shown = key.pairs[pair]
    ids = {v.method: i for i, v in key.videos.items() if v.sequence == shown.sequence}
    mine, theirs = ids[key.ours], ids[shown.baseline]
    left, right = (mine, theirs) if ours_left else (theirs, mine)
    return Vote(rater, pair, repeat, left, right, mine if ours else theirs, 2.0, 1_700_000_000_000)
