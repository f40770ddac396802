"""A user study: build its page, serve it, and say what the votes say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.settings.study import StudyConfig
from mimicmotion.study.build import BuiltStudy, build_study
from mimicmotion.study.folder import KEY, PAGE, load_key, load_study

if TYPE_CHECKING:
    from mimicmotion.study.analyse import Exclusion

logger = logging.getLogger(__name__)

EXPORT = "votes.json"


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What was built and where."""

    built: BuiltStudy
    output: Path

    def summary(self) -> str:
        """A few lines for a person to read."""
        study, key = self.built.study, self.built.key
        sequences = len({p.sequence for p in key.pairs.values()})
        again = sum(v.encoded_again for v in key.videos.values())
        return "\n".join(
            [
                *(f"warning: {line}" for line in self.built.warnings),
                f"{len(study.pairs)} pairs: {key.ours} against {', '.join(key.baselines)} in {sequences} sequences",
                f"{len(key.videos) - again} videos copied, {again} encoded as H.264 because browsers cannot play them",
                f"page: {self.output / PAGE} (can be hosted as it is)",
                f"key: {self.output / KEY} (keep it from the raters)",
                f"next: mimicmotion study serve {self.output}",
            ]
        )


def build(config: StudyConfig) -> Job[BuildResult]:
    """Build the folder of a study.

    Raises:
        InputError: the folders of results do not fit together, or a video cannot be read.
        OutputError: the place is taken or cannot be written.
    """
    steps = build_study(config)
    while True:
        try:
            done, total = next(steps)
        except StopIteration as stop:
            return BuildResult(stop.value, config.output)
        yield Progress("videos", done, total)


def serve(folder: Path, host: str, port: int, tell: Callable[[str], object]) -> str:
    """Serve a study until Ctrl-C; then export the votes as one file and say how many there are.

    Raises:
        InputError: no study there.
        OutputError: the address cannot be used, or a file cannot be written.
    """
    from mimicmotion.study.serve import StudyServer
    from mimicmotion.study.votes import save_votes

    server = StudyServer(folder, host, port)
    tell(f"{server.url} shows {server.study.title!r} ({len(server.study.pairs)} pairs). Ctrl-C stops.")
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    votes = server.store.votes()
    path = save_votes(folder / EXPORT, server.study, votes)
    return f"{len(votes)} votes of {len({v.rater for v in votes})} raters: {path}"


@dataclass(frozen=True, slots=True)
class AnalyseResult:
    """Where the analysis stands, and its text."""

    output: Path
    text: str

    def summary(self) -> str:
        """The report as text."""
        return f"{self.text}\nwritten to {self.output}"


def analyse(
    folder: Path, sources: Sequence[Path] = (), output: Path | None = None, exclusion: Exclusion | None = None
) -> AnalyseResult:
    """Analyse votes and write the report into `output` (STUDY/analysis by default).

    Raises:
        InputError: no votes, votes of another study or unknown pairs.
        OutputError: the place is taken or cannot be written.
    """
    from mimicmotion.study.analyse import Exclusion, analyse_votes
    from mimicmotion.study.report import markdown, save_report
    from mimicmotion.study.votes import load_votes

    study = load_study(folder)
    key = load_key(folder, study)
    analysis = analyse_votes(key, load_votes(folder, study, sources), exclusion or Exclusion())
    place = save_report(output or folder / "analysis", analysis)
    return AnalyseResult(place, markdown(analysis))
