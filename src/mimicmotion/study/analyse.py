"""Analysis of votes: preference with confidence intervals, and reliability of the raters.

The preference for a method over a baseline is the share of votes for it (MimicMotion, section 4.3: 36 raters x 6 pairs,
or 216 votes, for each baseline). Ties are counted separately. Repeated pairs only measure consistency, catch pairs only
attention, and practice pairs are ignored.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics.intervals import Interval, ratio_of_sums
from mimicmotion.runtime.extras import import_extra
from mimicmotion.runtime.files import write_json, write_text, writing
from mimicmotion.runtime.run_folder import atomic_folder
from mimicmotion.settings.study import Exclusion
from mimicmotion.study.folder import Key, Study, load_key, load_study
from mimicmotion.study.votes import TIE, Vote, completion_code, load_votes
from mimicmotion.tables import Section, Table, markdown_page, write_csv


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its 95% Wilson interval and a two-sided sign test; all NaN if there are no trials.

    Attributes:
        k: number of successes.
        n: number of trials.
        share: k / n.
        low: lower end of the interval.
        high: upper end of the interval.
        p: p-value of the hypothesis that the true share is one half.
    """

    k: int
    n: int
    share: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        if not self.n:
            return "–"
        return f"{self.share:.1%} [{self.low:.1%}, {self.high:.1%}], {self.k} of {self.n}"


def share(k: int, n: int) -> Share:
    """`Share` of k successes in n trials (Wilson 1927; exact binomial test).

    Raises:
        ConfigError: scipy is not installed.
    """
    if not n:
        return Share(0, 0, math.nan, math.nan, math.nan, math.nan)
    test = import_extra("scipy.stats", "eval").binomtest(k, n)
    interval = test.proportion_ci(method="wilson")
    return Share(k, n, k / n, float(interval.low), float(interval.high), float(test.pvalue))


@dataclass(frozen=True, slots=True)
class Rater:
    """A rater's answers and reliability. All counts are numbers of answers.

    Attributes:
        name: id of the rater.
        code: completion code.
        votes: answers about pairs of methods, without repetitions.
        ours: votes for our method.
        left: votes for the left (upper) video.
        ties: votes for neither video.
        repeated: answers about repeated pairs.
        consistent: repeated answers that match the first answer.
        catches: answers about catch pairs.
        caught: correct answers about catch pairs.
        seconds: median time per vote.
        agreement: share of answers that agree with the majority of the other raters; NaN if there never is a majority.
        excluded: reason for the exclusion of the rater; "" if not excluded.
    """

    name: str
    code: str
    votes: int
    ours: int
    left: int
    ties: int
    repeated: int
    consistent: int
    catches: int
    caught: int
    seconds: float
    agreement: float = math.nan
    excluded: str = ""


@dataclass(frozen=True, slots=True)
class Preference:
    """Votes for our method against a baseline, for one question.

    Attributes:
        baseline: name of the baseline.
        question: the question.
        ties: number of votes for neither video, which the other attributes do not count.
        votes: share of votes for ours; the interval and the test assume independent votes.
        by_rater: the same share with an interval over raters, whose votes are not independent.
    """

    baseline: str
    question: str
    ties: int
    votes: Share
    by_rater: Interval


@dataclass(frozen=True, slots=True)
class Analysis:
    """Result of `analyse_votes`.

    Attributes:
        study: id of the study.
        ours: name of our method.
        preferences: preference for each question and baseline with votes.
        raters: all raters, including excluded ones.
        consistency: share of repeated pairs with the same answer, over all raters who are not excluded.
        left: share of answers for the left side; one half is expected, because sides are random.
        rule: which raters were excluded.
        rows: a row for each vote.
    """

    study: str
    ours: str
    preferences: list[Preference]
    raters: list[Rater]
    consistency: Share
    left: Share
    rule: str
    rows: list[dict[str, Any]]

    @property
    def kept(self) -> list[Rater]:
        """Raters who are not excluded."""
        return [r for r in self.raters if not r.excluded]


def analyse_votes(study: Study, key: Key, votes: Sequence[Vote], exclusion: Exclusion | None = None) -> Analysis:
    """Analyse the votes of a study, at most one for each rater, trial and question (see `votes.latest`).

    Raises:
        InputError: there are no votes, an id is unknown, or all raters are excluded.
    """
    rule = exclusion or Exclusion()
    for vote in votes:
        questions, choices = range(len(study.questions)), {*key.videos, TIE}
        if vote.pair not in key.pairs or vote.choice not in choices or vote.question not in questions:
            got = f"vote of {vote.rater} on pair {vote.pair!r}"
            raise InputError(got, "votes on pairs of this study", "check that the votes belong to the study")
    practice = {p.id for p in study.pairs if p.kind == "practice"}
    votes = [v for v in votes if v.pair not in practice]
    if not votes:
        raise InputError("no votes", "at least one", "collect votes first")
    raters = [_rater(study, key, name, own, rule) for (name,), own in sorted(_by(votes, "rater").items())]
    names = {r.name for r in raters if not r.excluded}
    if not names:
        raise InputError(f"all {len(raters)} raters are excluded", "at least one", f"relax the rule ({rule.rule()})")
    first = [v for v in votes if v.repeat == 0 and v.rater in names and key.pairs[v.pair].baseline]
    agreement = _agreement(first)
    raters = [replace(r, agreement=agreement.get(r.name, math.nan)) for r in raters]
    kept = [r for r in raters if not r.excluded]
    asked = [(i, question, baseline) for i, question in enumerate(study.questions) for baseline in key.baselines]
    return Analysis(
        study=key.study,
        ours=key.ours,
        preferences=[p for place in asked if (p := _preference(key, first, *place)) is not None],
        raters=raters,
        consistency=share(sum(r.consistent for r in kept), sum(r.repeated for r in kept)),
        left=share(sum(r.left for r in kept), sum(r.votes - r.ties for r in kept)),
        rule=rule.rule(),
        rows=[_row(study, key, v, v.rater not in names) for v in votes],
    )


def _by(votes: Iterable[Vote], *names: str) -> dict[tuple[Any, ...], list[Vote]]:
    """Group votes by attributes."""
    groups: dict[tuple[Any, ...], list[Vote]] = defaultdict(list)
    for vote in votes:
        groups[tuple(getattr(vote, name) for name in names)].append(vote)
    return groups


def _preferred(key: Key, vote: Vote) -> str:
    """Classify a vote: "ours", "baseline" or "tie"."""
    return TIE if vote.choice == TIE else "ours" if key.videos[vote.choice].method == key.ours else "baseline"


def _rater(study: Study, key: Key, name: str, votes: Sequence[Vote], rule: Exclusion) -> Rater:
    first = {(v.pair, v.question): v for v in votes if v.repeat == 0 and key.pairs[v.pair].baseline}
    again = [(v, first[v.pair, v.question]) for v in votes if v.repeat == 1 and (v.pair, v.question) in first]
    catches = [v.choice == key.pairs[v.pair].better for v in votes if key.pairs[v.pair].better]
    rater = Rater(
        name=name,
        code=completion_code(study, name),
        votes=len(first),
        ours=sum(_preferred(key, v) == "ours" for v in first.values()),
        left=sum(v.choice == v.left for v in first.values()),
        ties=sum(v.choice == TIE for v in first.values()),
        repeated=len(again),
        consistent=sum(v.choice == before.choice for v, before in again),
        catches=len(catches),
        caught=sum(catches),
        seconds=statistics.median(v.seconds for v in votes),
    )
    return replace(rater, excluded=_reason(rule, rater))


def _reason(rule: Exclusion, rater: Rater) -> str:
    """Why a rater is excluded; "" if not excluded."""
    consistency = rater.consistent / rater.repeated if rater.repeated else 1
    if consistency < rule.min_consistency:
        return f"{rater.consistent} of {rater.repeated} repeated pairs answered consistently"
    if rater.catches and rater.caught / rater.catches < rule.min_caught:
        return f"{rater.caught} of {rater.catches} catch pairs answered correctly"
    return ""


def _agreement(first: Sequence[Vote]) -> dict[str, float]:
    """Compute each rater's share of answers that agree with the majority of the others, where one exists."""
    agreed: dict[str, list[bool]] = defaultdict(list)
    for votes in _by(first, "pair", "question").values():
        counts = Counter(v.choice for v in votes)
        for vote in votes:
            ranked = (counts - Counter([vote.choice])).most_common(2)
            if ranked and (len(ranked) == 1 or ranked[0][1] > ranked[1][1]):
                agreed[vote.rater].append(vote.choice == ranked[0][0])
    return {rater: statistics.mean(same) for rater, same in agreed.items()}


def _preference(key: Key, first: Sequence[Vote], number: int, question: str, baseline: str) -> Preference | None:
    votes = [v for v in first if v.question == number and key.pairs[v.pair].baseline == baseline]
    decided = [v for v in votes if v.choice != TIE]
    if not votes:
        return None
    groups = _by(decided, "rater").values()
    wins = [sum(_preferred(key, v) == "ours" for v in own) for own in groups]
    by_rater = ratio_of_sums(wins, [len(own) for own in groups]) if decided else Interval(math.nan)
    by_rater = replace(by_rater, low=max(by_rater.low, 0.0), high=min(by_rater.high, 1.0))  # it is a share
    counted = share(sum(wins), len(decided))
    return Preference(baseline, question, len(votes) - len(decided), counted, by_rater)


def _row(study: Study, key: Key, vote: Vote, excluded: bool) -> dict[str, Any]:
    pair = key.pairs[vote.pair]
    return {
        "rater": vote.rater,
        "sequence": pair.sequence,
        "baseline": pair.baseline,
        "catch": int(bool(pair.better)),
        "question": study.questions[vote.question],
        "repeat": vote.repeat,
        "preferred": TIE if vote.choice == TIE else key.videos[vote.choice].method,
        "left": key.videos[vote.left].method,
        "seconds": vote.seconds,
        "excluded": int(excluded),
    }


def analyse(
    folder: Path, sources: Sequence[Path] = (), output: Path | None = None, exclusion: Exclusion | None = None
) -> str:
    """Analyse votes, write the report to the folder `output` (by default STUDY/analysis), and return it as text.

    Raises:
        InputError: there are no votes, or they belong to another study.
        OutputError: the folder holds other files, or cannot be written.
    """
    study = load_study(folder)
    analysis = analyse_votes(study, load_key(folder, study), load_votes(folder, study, sources), exclusion)
    place = save_report(output or folder / "analysis", analysis)
    return f"{markdown(analysis)}\nwritten to {place}"


def save_report(folder: Path, analysis: Analysis) -> Path:
    """Write preference.md, .json, .csv (a row for each question and baseline) and -votes.csv (a row for each vote).

    Raises:
        OutputError: the folder holds other files, or cannot be written.
    """
    head = ["question", "baseline", "votes", "for_ours", "ties", "share", "low", "high", "p", "raters"]
    head += ["raters_low", "raters_high"]
    rows = [
        [p.question, p.baseline, v.n, v.k, p.ties, v.share, v.low, v.high, v.p, r.n, r.low, r.high]
        for p in analysis.preferences
        for v, r in [(p.votes, p.by_rater)]
    ]
    with atomic_folder(folder, "preference*") as part, writing(folder):
        write_text(part / "preference.md", markdown(analysis))
        write_json(part / "preference.json", asdict(analysis))
        write_csv(part / "preference.csv", head, rows)
        write_csv(part / "preference-votes.csv", list(analysis.rows[0]), [list(r.values()) for r in analysis.rows])
    return folder


def markdown(analysis: Analysis) -> str:
    """The report in Markdown."""
    preferences, raters = analysis.preferences, analysis.raters
    shares = [
        [
            p.question,
            p.baseline,
            f"**{_number(p.votes.share, '.1%')}** ({p.votes.k} of {p.votes.n})",
            p.ties,
            _interval(p.votes.low, p.votes.high),
            _number(p.votes.p, ".2g"),
            _interval(p.by_rater.low, p.by_rater.high),
        ]
        for p in preferences
    ]
    head = ["question", "baseline", f"prefer {analysis.ours}", "ties", "95% Wilson", "sign test p", "95% over raters"]
    note = "Ties are not counted. Wilson and the sign test assume independent votes; the last interval is over raters."
    checks = [
        f"- repeated pairs answered consistently: {analysis.consistency} (50% by chance)",
        f"- answers for the left side: {analysis.left}, p = {_number(analysis.left.p, '.2g')} (50% is expected)",
        f"- raters excluded: {len(raters) - len(analysis.kept)} of {len(raters)}; rule: {analysis.rule}",
    ]
    people = [
        [
            *(r.name, r.code, r.votes, r.ours, r.left, r.ties),
            f"{r.consistent} of {r.repeated}",
            f"{r.caught} of {r.catches}",
            _number(r.agreement, ".0%"),
            f"{r.seconds:.1f}",
            r.excluded,
        ]
        for r in raters
    ]
    columns = ["rater", "code", "answers", "for ours", "left", "ties", "consistent", "catch pairs correct"]
    columns += ["with the majority", "seconds", "excluded"]
    return markdown_page(
        f"User study: {analysis.ours} against {len({p.baseline for p in preferences})} baselines",
        [
            Section("", [note], Table(head, shares)),
            Section("Checks", checks),
            Section("Raters", (), Table(columns, people)),
        ],
    )


def _interval(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{low:.1%} to {high:.1%}"


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)
