"""The folder of a study.

STUDY/
study.json      the pairs, under blind ids, and the secret that signs raters' links
videos/         all videos and pictures, the only files that are served
key.json        which id is which method; the service does not read it
votes.sqlite    raters and votes
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from mimicmotion.errors import ConfigError, InputError
from mimicmotion.runtime.reading import read_json
from mimicmotion.settings import parse

T = TypeVar("T")
PairKind = Literal["vote", "practice", "catch"]

STUDY, VIDEOS, KEY, DATABASE = "study.json", "videos", "key.json", "votes.sqlite"
FORMAT, KEY_FORMAT, VERSION = "mimicmotion-study", "mimicmotion-study-key", 2


@dataclass(frozen=True, slots=True)
class StudyPair:
    """Two videos of one sequence, in an order that says nothing, and what is shown with them.

    Attributes:
        id: blind name of the pair.
        a: id of one video.
        b: id of the other.
        reference: file of the reference picture in videos/; "" for none.
        driving: id of the driving video; "" for none.
        kind: practice and catch pairs show a video and a coarse copy of it.
    """

    id: str
    a: str
    b: str
    reference: str = ""
    driving: str = ""
    kind: PairKind = "vote"


@dataclass(frozen=True, slots=True)
class PageVideo:
    """A video as the page sees it: its file in videos/, shape and length."""

    file: str
    width: int
    height: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Study:
    """What the service knows; holds no name of a method or sequence.

    Attributes:
        study: id of the study.
        secret: signs the links of raters.
        title: heading of the page.
        questions: what is asked about each pair.
        ties: whether "no difference" is an answer.
        consent: what raters agree to first; "" for nothing.
        instructions: shown before the first pair; "" for the usual ones alone.
        open: whether anyone can vote, under a random id.
        repeat_share: pairs that a rater sees a second time, as a share of all.
        min_seconds: how long a pair must be shown before a vote is taken.
        pairs: the pairs.
        videos: the videos by id.
    """

    study: str
    secret: str
    title: str
    questions: tuple[str, ...]
    ties: bool
    consent: str
    instructions: str
    open: bool
    repeat_share: float
    min_seconds: float
    pairs: tuple[StudyPair, ...]
    videos: dict[str, PageVideo]

    def as_json(self) -> dict[str, Any]:
        """The content of study.json."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


@dataclass(frozen=True, slots=True)
class KeyVideo:
    """Where a video of the page came from."""

    method: str
    sequence: str
    source: str
    encoded_again: bool


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Whose videos a pair shows: ours always against one baseline; of a practice or catch pair, which one is better."""

    sequence: str
    baseline: str = ""
    better: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """What the blind ids stand for.

    Attributes:
        study: id of the study.
        ours: name of our method.
        baselines: names of the others.
        videos: the videos of methods, by id.
        pairs: the pairs, by id.
    """

    study: str
    ours: str
    baselines: tuple[str, ...]
    videos: dict[str, KeyVideo]
    pairs: dict[str, KeyPair]

    def as_json(self) -> dict[str, Any]:
        """The content of key.json."""
        return {"format": KEY_FORMAT, "version": VERSION, **asdict(self)}


def load_study(folder: Path) -> Study:
    """Read STUDY/study.json.

    Raises:
        InputError: there is none, or it is damaged.
    """
    return _load(Study, folder / STUDY, FORMAT)


def load_key(folder: Path, study: Study) -> Key:
    """Read STUDY/key.json and see that it belongs to the study.

    Raises:
        InputError: there is none, it is damaged, or it is another study's.
    """
    path = folder / KEY
    key = _load(Key, path, KEY_FORMAT)
    shown = {v for pair in study.pairs for v in (pair.a, pair.b)}
    if key.study != study.study or set(key.pairs) != {p.id for p in study.pairs} or not shown <= set(key.videos):
        raise InputError(f"{path} is the key of another study", f"the key of {study.study}", "put the right file there")
    return key


def _load(cls: type[T], path: Path, form: str) -> T:
    if not path.exists():
        raise InputError(f"{path} does not exist", "the folder of a study", "mimicmotion study build makes one")
    data = read_json(path, "a JSON file", "check that it is complete")
    try:
        if not isinstance(data, dict) or (data.pop("format", None), data.pop("version", None)) != (form, VERSION):
            raise ConfigError("its format or version differ", form, "")
        return parse(cls, data)
    except ConfigError as e:
        fix = "build the study anew"
        raise InputError(f"{path}: {e.got}", "the file as mimicmotion study build wrote it", fix) from e
