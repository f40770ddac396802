"""Raters: signed ids, the order of trials, and completion codes."""

from __future__ import annotations

import hashlib
import hmac
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mimicmotion.errors import InputError
from mimicmotion.study.folder import Study, StudyPair

RATER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def sign(study: Study, rater: str) -> str:
    """Sign the id of a rater, so that nobody can vote under another id: RATER.SIGNATURE.

    Raises:
        InputError: the id contains characters other than letters, digits, _ and -.
    """
    if not RATER.fullmatch(rater):
        raise InputError(f"the rater {rater!r:.80}", "at most 64 letters, digits, _ and -", "choose another name")
    return f"{rater}.{_mac(study, f'rater/{rater}')[:32]}"


def verify(study: Study, signed: str) -> str | None:
    """The rater of a signed id; None if the signature is wrong."""
    rater, _, _ = signed.partition(".")
    if not RATER.fullmatch(rater) or not hmac.compare_digest(sign(study, rater).encode(), signed.encode()):
        return None
    return rater


def completion_code(study: Study, rater: str) -> str:
    """Code that a rater receives at the end, as proof of having answered everything."""
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
