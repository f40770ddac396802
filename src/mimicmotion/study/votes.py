"""Votes: their checks, the files that hold them, and the database of `study serve`."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from mimicmotion.errors import InputError, OutputError
from mimicmotion.runtime.reading import read_json
from mimicmotion.study.folder import DATABASE, JSON_FILE, Study, StudyPair
from mimicmotion.tables import write_json

FORMAT, VERSION = "mimicmotion-votes", 1
RATER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LATEST = 10**14  # milliseconds since 1970, far beyond any clock


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer to one pair.

    Attributes:
        rater: who voted.
        pair: id of the pair.
        repeat: 0 for the first showing of the pair, 1 for its repetition.
        left: id of the video on the left (or on top).
        right: id of the other.
        choice: id of the preferred one.
        seconds: from the moment both videos ran to the vote.
        time: milliseconds since 1970 on the rater's clock; of two votes on the same showing the later counts.
    """

    rater: str
    pair: str
    repeat: int
    left: str
    right: str
    choice: str
    seconds: float
    time: int


def parse_votes(study: Study, data: Any, where: str = "the votes") -> list[Vote]:
    """Check what a page sent or saved; all votes are good, or none is taken.

    Raises:
        InputError: not votes, votes of another study, an unknown pair, or a value out of range.
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("version") != VERSION:
        raise InputError(f"{where}: not a file of votes", f"format {FORMAT}, version {VERSION}", "take the page's file")
    if data.get("study") != study.study:
        got = f"{where}: votes of the study {data.get('study')!r:.80}"
        raise InputError(got, f"votes of {study.study}", "give votes of this study only")
    votes = data.get("votes")
    if not isinstance(votes, list):
        raise InputError(f"{where}: 'votes' is no list", "a list of votes", "take the page's file as it is")
    pairs = {p.id: p for p in study.pairs}
    return [_vote(v, data.get("rater"), pairs, f"{where}, vote {i + 1}") for i, v in enumerate(votes)]


def _vote(data: Any, rater: Any, pairs: dict[str, StudyPair], where: str) -> Vote:
    def need(good: bool, name: str, expected: str) -> None:
        if not good:
            value = data.get(name) if isinstance(data, dict) else data
            raise InputError(f"{where}: {name} = {value!r:.80}", expected, "take the page's votes as they are")

    need(isinstance(data, dict), "vote", "a vote")
    data = {"rater": rater, **data}
    need(isinstance(data["rater"], str) and bool(RATER.fullmatch(data["rater"])), "rater", "letters, digits, _ . -")
    need(isinstance(data.get("pair"), str) and data["pair"] in pairs, "pair", "the id of a pair of this study")
    pair = pairs[data["pair"]]
    need(data.get("repeat") in (0, 1) and type(data["repeat"]) is int, "repeat", "0 or 1")
    need(data.get("left") in (pair.a, pair.b), "left", "a video of the pair")
    need(data.get("right") == (pair.b if data["left"] == pair.a else pair.a), "right", "the other video of the pair")
    need(data.get("choice") in (pair.a, pair.b), "choice", "a video of the pair")
    seconds, time = data.get("seconds"), data.get("time")
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    need(number and 0 <= seconds <= 1e7, "seconds", "seconds, 0 or more")
    need(type(time) is int and 0 <= time < _LATEST, "time", "milliseconds since 1970")
    return Vote(**{f.name: data[f.name] for f in fields(Vote)})


def latest(votes: Iterable[Vote]) -> list[Vote]:
    """One vote for each showing, the latest, in a fixed order."""
    kept: dict[tuple[str, str, int], Vote] = {}
    for vote in votes:
        place = (vote.rater, vote.pair, vote.repeat)
        if place not in kept or vote.time >= kept[place].time:
            kept[place] = vote
    return [kept[place] for place in sorted(kept)]


def votes_as_json(study: Study, votes: Sequence[Vote]) -> dict[str, Any]:
    """The content of a file of votes, in the form that the page saves."""
    return {"format": FORMAT, "version": VERSION, "study": study.study, "votes": [asdict(v) for v in votes]}


def save_votes(path: Path, study: Study, votes: Sequence[Vote]) -> Path:
    """Write votes as one JSON file.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_json(path, votes_as_json(study, votes))


def load_votes(folder: Path, study: Study, sources: Sequence[Path] = ()) -> list[Vote]:
    """Read votes from JSON files, folders of them, and databases; from the study's own database when none is named.

    Raises:
        InputError: nothing there, or `parse_votes` refuses it.
    """
    votes: list[Vote] = []
    for source in sources or [folder / DATABASE]:
        if not source.exists():
            fix = "name the files of votes, or collect some with mimicmotion study serve"
            raise InputError(f"{source} does not exist", "votes", fix)
        files = sorted(source.glob("*.json")) if source.is_dir() else [source]
        if not files:
            raise InputError(f"{source} holds no .json file", "files of votes", "check the path")
        for file in files:
            if file.suffix in (".sqlite", ".db"):
                votes += VoteStore(file, study).votes()
            else:
                votes += parse_votes(study, read_json(file, *JSON_FILE), str(file))
    return latest(votes)


class VoteStore:
    """The votes of a study in an SQLite file; safe for several threads and for a crash at any moment.

    Sending a vote twice changes nothing, and sending a new answer to the same showing replaces the old one.

    Args:
        path: the file; made when missing.
        study: whose votes it holds.

    Raises:
        InputError: the file is not such a database, or holds the votes of another study.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path, study: Study) -> None:
        self.path, self.study = path, study
        with self._open() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE IF NOT EXISTS study (id TEXT NOT NULL)")
            db.execute(
                "CREATE TABLE IF NOT EXISTS votes (rater TEXT, pair TEXT, repeat INTEGER, left TEXT NOT NULL,"
                " right TEXT NOT NULL, choice TEXT NOT NULL, seconds REAL NOT NULL, time INTEGER NOT NULL,"
                " PRIMARY KEY (rater, pair, repeat)) WITHOUT ROWID"
            )
            db.execute("INSERT INTO study SELECT ? WHERE NOT EXISTS (SELECT 1 FROM study)", (study.study,))
            (found,) = db.execute("SELECT id FROM study").fetchone()
        if found != study.study:
            got = f"{path} holds votes of the study {found}"
            raise InputError(got, f"votes of {study.study}", "move the file away")

    def add(self, votes: Sequence[Vote]) -> None:
        """Keep votes: all or, on an error, none.

        Raises:
            OutputError: the file cannot be written.
        """
        with self._open() as db:
            # a late second try of an old vote must not undo the newer one
            db.executemany(
                "INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (rater, pair, repeat) DO UPDATE SET"
                " left=excluded.left, right=excluded.right, choice=excluded.choice, seconds=excluded.seconds,"
                " time=excluded.time WHERE excluded.time >= votes.time",
                [astuple(v) for v in votes],
            )

    def votes(self) -> list[Vote]:
        """All votes, in a fixed order."""
        with self._open() as db:
            rows = db.execute("SELECT * FROM votes ORDER BY rater, pair, repeat").fetchall()
        return [Vote(*row) for row in rows]

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as db, db:
                yield db
        except sqlite3.DatabaseError as e:
            if isinstance(e, sqlite3.OperationalError):
                fix = "check the folder's permissions and the room on the disk"
                raise OutputError(f"{self.path}: {e}", "a database that can be written", fix) from e
            raise InputError(f"{self.path}: {e}", "a database of votes", "move the file away") from e
