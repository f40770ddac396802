"""The folder of a study.

STUDY/
page/           all that raters may see; can be hosted or handed out as it is
index.html    works from a server and from a disk
study.json    the pairs, under blind ids
videos/
key.json        which id is which method: never served
votes.sqlite    what `study serve` was sent
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from mimicmotion.errors import ConfigError, InputError
from mimicmotion.runtime.reading import read_json
from mimicmotion.settings import parse

T = TypeVar("T")

PAGE, INDEX, STUDY, VIDEOS = "page", "index.html", "study.json", "videos"
JSON_FILE = ("a JSON file", "check that it is complete")
KEY, DATABASE = "key.json", "votes.sqlite"
FORMAT, KEY_FORMAT, VERSION = "mimicmotion-study", "mimicmotion-study-key", 1


@dataclass(frozen=True, slots=True)
class StudyPair:
    """Two videos of one sequence, in an order that says nothing, and what is shown with them.

    Attributes:
        id: blind name of the pair.
        a: id of one video.
        b: id of the other.
        reference: file of the reference picture; "" for none.
        driving: id of the driving video; "" for none.
    """

    id: str
    a: str
    b: str
    reference: str = ""
    driving: str = ""


@dataclass(frozen=True, slots=True)
class PageVideo:
    """A video as the page sees it: file below page/, shape and length."""

    file: str
    width: int
    height: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Study:
    """What the page and the server know; holds no name of a method or sequence.

    Attributes:
        study: id of the study; votes carry it.
        title: heading of the page.
        question: what is asked about each pair.
        repeat_share: pairs that a rater sees a second time, as a share of all.
        min_seconds: how long a pair must be shown before a vote is taken.
        pairs: the pairs.
        videos: the videos by id.
    """

    study: str
    title: str
    question: str
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
    """Whose videos a pair shows: ours always against one baseline."""

    sequence: str
    baseline: str


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
    """Read STUDY/page/study.json.

    Raises:
        InputError: there is none, or it is damaged.
    """
    return _load(Study, folder / PAGE / STUDY, FORMAT)


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
    data = read_json(path, *JSON_FILE)
    try:
        if not isinstance(data, dict) or (data.pop("format", None), data.pop("version", None)) != (form, VERSION):
            raise ConfigError("its format or version differ", form, "")
        return parse(cls, data)
    except ConfigError as e:
        fix = "build the study anew"
        raise InputError(f"{path}: {e.got}", "the file as mimicmotion study build wrote it", fix) from e
