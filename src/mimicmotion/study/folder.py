"""The folder of a study.

STUDY/
study.json      pairs with random ids, and the secret that signs the links of raters
videos/         videos and pictures, the only files that are served
key.json        method of each id; not read by the service
votes.sqlite    raters and votes
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar

from mimicmotion.errors import ConfigError, InputError
from mimicmotion.runtime.files import write_json
from mimicmotion.runtime.reading import read_json
from mimicmotion.settings import parse

T = TypeVar("T")
PairKind = Literal["vote", "practice", "catch"]

STUDY, VIDEOS, KEY, DATABASE = "study.json", "videos", "key.json", "votes.sqlite"
VERSION = 2


@dataclass(frozen=True, slots=True)
class StudyPair:
    """Two videos of one sequence in random order, and what is shown beside them.

    Attributes:
        id: random id of the pair.
        a: id of one video.
        b: id of the other video.
        reference: file name of the reference picture in videos/; "" for none.
        driving: id of the driving video; "" for none.
        kind: practice and catch pairs show a video and a pixelated copy of it.
    """

    id: str
    a: str
    b: str
    reference: str = ""
    driving: str = ""
    kind: PairKind = "vote"


@dataclass(frozen=True, slots=True)
class PageVideo:
    """Facts about a video that the page needs: file name in videos/, size in pixels, and length in seconds."""

    file: str
    width: int
    height: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Study:
    """A study as the service reads it, without the names of methods and sequences.

    Attributes:
        study: id of the study.
        secret: key that signs the links of raters.
        title: heading of the page.
        questions: questions about each pair.
        ties: whether "no difference" is an answer.
        consent: text that raters agree to first; "" for none.
        instructions: text shown before the first pair, in addition to the standard one.
        open: whether anyone can vote, under a random id.
        repeat_share: share of the pairs that are shown to each rater twice.
        min_seconds: seconds that a pair must play before it can be voted on.
        pairs: all pairs.
        videos: all videos, by id.
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


@dataclass(frozen=True, slots=True)
class KeyVideo:
    """Origin of a video: method, sequence, name of the source, and whether it was encoded instead of copied."""

    method: str
    sequence: str
    source: str
    encoded_again: bool


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Sequence of a pair, and its baseline; for practice and catch pairs, the id of the better video."""

    sequence: str
    baseline: str = ""
    better: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """The methods and sequences behind the random ids.

    Attributes:
        study: id of the study.
        ours: name of our method.
        baselines: names of the other methods.
        videos: videos of the methods, by id.
        pairs: pairs, by id.
    """

    study: str
    ours: str
    baselines: tuple[str, ...]
    videos: dict[str, KeyVideo]
    pairs: dict[str, KeyPair]


FORMATS: dict[type, str] = {Study: "mimicmotion-study", Key: "mimicmotion-study-key"}


def save(folder: Path, study: Study, key: Key) -> None:
    """Write STUDY/study.json, which only its owner can read, and STUDY/key.json."""
    for name, content in ((STUDY, study), (KEY, key)):
        write_json(folder / name, {"format": FORMATS[type(content)], "version": VERSION, **asdict(content)})
    (folder / STUDY).chmod(0o600)


def load_study(folder: Path) -> Study:
    """Read STUDY/study.json.

    Raises:
        InputError: the file is missing or damaged.
    """
    return _load(Study, folder / STUDY)


def load_key(folder: Path, study: Study) -> Key:
    """Read STUDY/key.json.

    Raises:
        InputError: the file is missing, damaged, or of another study.
    """
    path = folder / KEY
    key = _load(Key, path)
    shown = {v for pair in study.pairs for v in (pair.a, pair.b)}
    if key.study != study.study or set(key.pairs) != {p.id for p in study.pairs} or not shown <= set(key.videos):
        raise InputError(f"{path} is the key of another study", f"the key of {study.study}", "restore this study's key")
    return key


def _load(cls: type[T], path: Path) -> T:
    if not path.exists():
        raise InputError(f"{path} does not exist", "the folder of a study", "create one with mimicmotion study build")
    data = read_json(path, "a JSON file", "check that it is complete")
    try:
        if not isinstance(data, dict) or [data.pop(k, None) for k in ("format", "version")] != [FORMATS[cls], VERSION]:
            raise ConfigError("another format or version", FORMATS[cls], "")
        return parse(cls, data)
    except ConfigError as e:
        fix = "build the study again"
        raise InputError(f"{path}: {e.got}", "the file as mimicmotion study build wrote it", fix) from e
