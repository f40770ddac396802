"""Raters (signed ids, the order of trials, completion codes), and the database of their votes."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import random
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from mimicmotion.errors import InputError, OutputError
from mimicmotion.study.folder import DATABASE, Study, StudyPair

RATER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
TIE = "tie"
_TABLES = """
CREATE TABLE IF NOT EXISTS study (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS raters (number INTEGER PRIMARY KEY, rater TEXT NOT NULL UNIQUE, began INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS votes (id TEXT NOT NULL, rater TEXT NOT NULL, pair TEXT NOT NULL,
 repeat INTEGER NOT NULL, question INTEGER NOT NULL, left TEXT NOT NULL, right TEXT NOT NULL, choice TEXT NOT NULL,
 seconds REAL NOT NULL, time INTEGER NOT NULL, UNIQUE (rater, id));
CREATE TRIGGER IF NOT EXISTS kept BEFORE DELETE ON votes BEGIN SELECT RAISE(ABORT, 'votes are never deleted'); END;
CREATE TRIGGER IF NOT EXISTS same BEFORE UPDATE ON votes BEGIN SELECT RAISE(ABORT, 'votes are never changed'); END;
"""


def sign(study: Study, rater: str) -> str:
    """Sign the id of a rater (RATER.SIGNATURE), so that nobody can vote under another id.

    Raises:
        InputError: the id is not a letter or digit followed by at most 63 letters, digits, _ and -.
    """
    if not RATER.fullmatch(rater):
        raise InputError(f"the rater {rater!r:.80}", "at most 64 letters, digits, _ and -", "choose another name")
    return f"{rater}.{_mac(study, f'rater/{rater}')[:32]}"


def verify(study: Study, signed: str) -> str | None:
    """Return the rater id in a signed id; None if the signature is wrong."""
    rater, _, _ = signed.partition(".")
    if not RATER.fullmatch(rater) or not hmac.compare_digest(sign(study, rater).encode(), signed.encode()):
        return None
    return rater


def completion_code(study: Study, rater: str) -> str:
    """Return the code that a rater receives after answering all questions, as proof of completion."""
    return _mac(study, f"done/{rater}")[:8].upper()


def _mac(study: Study, text: str) -> str:
    return hmac.new(bytes.fromhex(study.secret), text.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Trial:
    """A pair as shown to a rater.

    Attributes:
        pair: pair of videos.
        left: id of the video on the left (or on top).
        right: id of the other video.
        repeat: 0 for the first showing of the pair, 1 for its repetition.
    """

    pair: StudyPair
    left: str
    right: str
    repeat: int = 0


def plan_trials(study: Study, number: int) -> list[Trial]:
    """Plan the trials of a rater, counterbalanced over raters.

    Over 2 n successive raters, each of the n pairs appears twice at each position and follows each other pair equally
    often (Williams' design; Williams 1949). Sides alternate from rater to rater, so half of the videos on the left are
    ours. Repetitions come in the second half with swapped sides, so that neither position nor side helps to remember
    the answer. Practice pairs come first, and catch pairs are scattered.

    Args:
        study: the study.
        number: number of the rater, from 0, in the order in which they began.
    """
    rng = random.Random(f"{study.study}/{number}")
    order = [_turned(pair, number % 2) for pair in williams([p for p in study.pairs if p.kind == "vote"], number)]
    count = min(len(order), max(round(study.repeat_share * len(order)), study.repeat_share > 0))
    half = (len(order) + 1) // 2
    early = order[: max(half - 1, 1)]  # a pair is not repeated at once
    again = [Trial(t.pair, t.right, t.left, 1) for t in rng.sample(early, min(count, len(early)))]
    checks = {k: [_turned(p, rng.randrange(2)) for p in study.pairs if p.kind == k] for k in ("practice", "catch")}
    for trial, first in [*((t, half) for t in again), *((t, 1) for t in checks["catch"])]:
        order.insert(rng.randint(first, len(order)), trial)
    return checks["practice"] + order


def williams(pairs: Sequence[StudyPair], row: int) -> list[StudyPair]:
    """A row of Williams' design: over 2 n rows, all n items are balanced in position and in order of succession."""
    n = len(pairs)
    zigzag = [(j + 1) // 2 if j % 2 else n - j // 2 for j in range(n)]  # 0, 1, n - 1, 2, n - 2, ...
    order = [pairs[(place + row) % n] for place in zigzag]
    return order[::-1] if row // n % 2 else order


def _turned(pair: StudyPair, turn: int) -> Trial:
    return Trial(pair, *((pair.b, pair.a) if turn else (pair.a, pair.b)))


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer to one question about one pair.

    Attributes:
        id: chosen by the rater's page, so that a vote sent twice is stored once.
        rater: who voted.
        pair: id of the pair.
        repeat: 0 for the first showing of the pair, 1 for its repetition.
        question: number of the question, from 0.
        left: id of the video on the left (or on top).
        right: id of the other video.
        choice: id of the preferred one, or "tie".
        seconds: time for which both videos were shown before the vote.
        time: when the service received it, in milliseconds since 1970.
    """

    id: str
    rater: str
    pair: str
    repeat: int
    question: int
    left: str
    right: str
    choice: str
    seconds: float
    time: int


def latest(votes: Iterable[Vote]) -> list[Vote]:
    """Return the last vote for each question of each trial, in a fixed order."""
    kept = {(v.rater, v.pair, v.repeat, v.question): v for v in votes}
    return [kept[place] for place in sorted(kept)]


def load_votes(folder: Path, study: Study, sources: Sequence[Path] = ()) -> list[Vote]:
    """Read the latest votes from databases, by default from that of the study.

    Raises:
        InputError: a database does not exist, or belongs to another study.
    """
    votes: list[Vote] = []
    for source in sources or [folder / DATABASE]:
        if not source.exists():
            fix = "pass the path of the database, or collect votes with mimicmotion serve --study"
            raise InputError(f"{source} does not exist", "a database of votes", fix)
        votes += VoteStore(source, study).history()
    return latest(votes)


class VoteStore:
    """Raters and votes in an SQLite file. It can be used from several threads, and survives crashes.

    Votes are never changed: a new answer to the same question is added.

    Args:
        path: the file, created if it does not exist.
        study: study of the votes.

    Raises:
        InputError: the file is not a database of votes, or belongs to another study.
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, study: Study) -> None:
        self.path, self.study = path, study
        with self._open() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_TABLES)
            db.execute("INSERT INTO study SELECT ? WHERE NOT EXISTS (SELECT 1 FROM study)", (study.study,))
            (found,) = db.execute("SELECT id FROM study").fetchone()
        if found != study.study:
            got = f"{path} contains votes of the study {found}"
            raise InputError(got, f"votes of {study.study}", "move it elsewhere")

    def enrol(self, rater: str, time: int) -> None:
        """Record when a rater began, which is when they consented. Later calls have no effect.

        Raises:
            OutputError: the file cannot be written.
        """
        with self._open() as db:
            db.execute("INSERT INTO raters (rater, began) VALUES (?, ?) ON CONFLICT DO NOTHING", (rater, time))

    def number(self, rater: str) -> int | None:
        """Return the number of a rater, from 0, in the order in which they began; None if the rater has not begun."""
        with self._open() as db:
            found = db.execute("SELECT number FROM raters WHERE rater = ?", (rater,)).fetchone()
        return found and found[0] - 1

    def add(self, votes: Sequence[Vote]) -> None:
        """Store all votes or, on an error, none. Votes that are already stored are skipped.

        Raises:
            OutputError: the file cannot be written.
        """
        with self._open() as db:
            # not OR IGNORE, which would also skip incomplete votes
            db.executemany(
                "INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (rater, id) DO NOTHING",
                [astuple(v) for v in votes],
            )

    def history(self, rater: str | None = None) -> list[Vote]:
        """Return all votes (of one rater if given) in order of arrival, including those replaced by a later answer."""
        with self._open() as db:
            where, values = ("WHERE rater = ?", (rater,)) if rater else ("", ())
            return [Vote(*row) for row in db.execute(f"SELECT * FROM votes {where} ORDER BY rowid", values)]

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as db, db:
                yield db
        except sqlite3.DatabaseError as e:
            if isinstance(e, sqlite3.OperationalError):
                fix = "check the permissions of the folder and the free space"
                raise OutputError(f"{self.path}: {e}", "a writable database", fix) from e
            raise InputError(f"{self.path}: {e}", "a database of votes", "move it elsewhere") from e
