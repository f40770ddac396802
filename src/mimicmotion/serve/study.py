"""The user study under /study: its page, videos and votes. Raters are identified by signed links."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool

import mimicmotion.study
from mimicmotion.errors import InputError
from mimicmotion.serve.uploads import RefusedError, small_body
from mimicmotion.study.folder import DATABASE, VIDEOS, load_study
from mimicmotion.study.votes import TIE, Trial, Vote, VoteStore, completion_code, plan_trials, sign, verify

MAX_BODY = 1 << 18
"""Maximum number of bytes; 1000 answers take about 150 kB."""
PAGE = Path(mimicmotion.study.__file__).parent
POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
Text = Annotated[str, Field(min_length=1, max_length=64)]


class Answer(BaseModel):
    """An answer to one question about a pair. The page chooses `id`, so that an answer sent twice is stored once."""

    id: Text
    pair: Text
    repeat: Literal[0, 1]
    question: int
    choice: Literal["left", "right", "tie"]
    seconds: Annotated[float, Field(ge=0, le=1e7)]


class Answers(BaseModel):
    """The answers in one request."""

    votes: Annotated[list[Answer], Field(max_length=1000)]


class RunningStudy:
    """A study with its database.

    Args:
        folder: folder created by `study build`.

    Raises:
        InputError: the folder does not exist or is incomplete.
        OutputError: the database cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.study, self.videos = load_study(folder), folder / VIDEOS
        self.files = {*(v.file for v in self.study.videos.values()), *(p.reference for p in self.study.pairs)} - {""}
        if missing := [name for name in sorted(self.files) if not (self.videos / name).is_file()]:
            fix = "build the study again"
            raise InputError(f"{self.videos} lacks {missing[0]}", "the folder as it was built", fix)
        self.store = VoteStore(folder / DATABASE, self.study)

    def trials(self, rater: str) -> dict[tuple[str, int], Trial]:
        """Return the trials of a rater in order; empty if the rater has not begun."""
        number = self.store.number(rater)
        planned = [] if number is None else plan_trials(self.study, number)
        return {(t.pair.id, t.repeat): t for t in planned}

    def begin(self, rater: str, agreed: bool) -> dict[str, Any] | None:
        """Return a rater's trials, videos, answers and completion code; None if the rater has not consented."""
        if agreed:
            self.store.enrol(rater, _now())
        trials = self.trials(rater)
        if not trials:
            return None
        votes = self.store.history(rater)
        shown = [
            {
                "pair": t.pair.id,
                "repeat": t.repeat,
                "practice": t.pair.kind == "practice",
                "left": t.left,
                "right": t.right,
                "reference": t.pair.reference,
                "driving": t.pair.driving,
            }
            for t in trials.values()
        ]
        named = {t[side] for t in shown for side in ("left", "right", "driving")} - {""}
        videos = {name: self.study.videos[name] for name in named}
        answered = [[v.pair, v.repeat, v.question] for v in votes]
        return {"trials": shown, "videos": videos, "answered": answered, "code": self._code(rater, trials, votes)}

    def add(self, rater: str, answers: list[Answer]) -> dict[str, Any]:
        """Store all answers or, on an error, none. Returns their number and, once all are stored, the completion code.

        Raises:
            RefusedError: an answer does not belong to a trial of this rater.
        """
        trials, votes = self.trials(rater), []
        for answer in answers:
            trial = trials.get((answer.pair, answer.repeat))
            tie = answer.choice == "tie"
            if trial is None or not 0 <= answer.question < len(self.study.questions) or (tie and not self.study.ties):
                got = f"an answer about pair {answer.pair!r}, question {answer.question}: {answer.choice}"
                raise RefusedError(422, got, "answers to this rater's trials", "reload the page")
            facts = answer.model_dump(exclude={"choice"}) | {"left": trial.left, "right": trial.right}
            choice = TIE if tie else facts[answer.choice]
            votes.append(Vote(rater=rater, choice=choice, time=_now(), **facts))
        self.store.add(votes)
        return {"stored": len(votes), "code": self._code(rater, trials, self.store.history(rater))}

    def _code(self, rater: str, trials: dict[tuple[str, int], Trial], votes: Iterable[Vote]) -> str | None:
        """Return the completion code; None until all questions are answered."""
        asked = {(*trial, question) for trial in trials for question in range(len(self.study.questions))}
        unanswered = asked - {(v.pair, v.repeat, v.question) for v in votes}
        return None if unanswered else completion_code(self.study, rater)


def mount(app: FastAPI, folder: Path) -> None:
    """Add a study to the service; raises the errors of `RunningStudy`."""
    app.state.study = RunningStudy(folder)
    app.include_router(router)


def _running(request: Request) -> RunningStudy:
    return request.app.state.study


def _rater(request: Request) -> str:
    kind, _, signed = request.headers.get("authorization", "").partition(" ")
    rater = verify(_running(request).study, signed) if kind.lower() == "bearer" else None
    if rater is None:
        fix = "open the link that you were given, or ask for a new one"
        raise RefusedError(401, "a missing or invalid link", "a link from `mimicmotion study invite`", fix)
    return rater


Running = Annotated[RunningStudy, Depends(_running)]
Rater = Annotated[str, Depends(_rater)]
router = APIRouter(prefix="/study", include_in_schema=False)


@router.get("/about")
def about(running: Running) -> dict[str, Any]:
    """Get the texts and settings of the study."""
    study = running.study
    names = ("study", "title", "questions", "ties", "consent", "instructions", "open", "min_seconds")
    return {name: getattr(study, name) for name in names} | {"count": len(plan_trials(study, 0))}


@router.get("/videos/{name}")
def video(running: Running, name: str) -> FileResponse:
    """Download a video or picture. File names are random and cannot be guessed."""
    if name not in running.files:
        raise RefusedError(404, "no such file", "a file of this study", "reload the page")
    return FileResponse(running.videos / name, headers={"Cache-Control": "private, max-age=86400, immutable"})


@router.get("")
@router.get("/")
@router.get("/{name}")
def page(name: str = "page.html") -> FileResponse:
    """Get the page, its style sheet or its script."""
    if name not in ("page.html", "page.css", "page.js"):
        raise RefusedError(404, "no such file", "a file of the page", "open /study")
    return FileResponse(PAGE / name, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})


@router.post("/raters")
def enter(running: Running) -> dict[str, str]:
    """Create a random rater id, for a study that is open to anyone."""
    if not running.study.open:
        raise RefusedError(403, "no invitation", "a link from `mimicmotion study invite`", "ask for one")
    return {"rater": sign(running.study, f"r{secrets.token_hex(8)}")}


@router.post("/begin")
def begin(running: Running, rater: Rater, agreed: bool = False) -> dict[str, Any] | None:
    """Get a rater's trials and stored answers; null before the rater has consented."""
    return running.begin(rater, agreed)


@router.post("/votes")
async def vote(request: Request, running: Running, rater: Rater) -> dict[str, Any]:
    """Store answers."""
    try:
        answers = Answers.model_validate_json(await small_body(request, MAX_BODY))
    except ValidationError as e:
        first = e.errors()[0]
        got = f"{'.'.join(map(str, first['loc']))} = {str(first['input'])[:80]!r}"
        raise RefusedError(422, got, first["msg"], "reload the page") from e
    return await run_in_threadpool(running.add, rater, answers.votes)


def _now() -> int:
    return int(time.time() * 1000)
