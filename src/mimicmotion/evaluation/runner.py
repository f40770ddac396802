"""Evaluate methods on a set of real videos, reusing cached measurements."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from mimicmotion import __version__
from mimicmotion.errors import InputError, PoseError
from mimicmotion.evaluation.cache import ResultCache, content_digest
from mimicmotion.evaluation.metrics import measures
from mimicmotion.evaluation.metrics.fvd import features
from mimicmotion.evaluation.metrics.poses import pose_numbers
from mimicmotion.evaluation.metrics.seams import segment_borders, sidecar_fusion
from mimicmotion.evaluation.people import People, pair_poses
from mimicmotion.evaluation.protocols import Protocol, load_protocol
from mimicmotion.evaluation.reports.summary import Row, Sets, Summary, add_frechet, summarise_rows
from mimicmotion.evaluation.selection import MetricNetwork, Selection, select_metrics
from mimicmotion.evaluation.videos import Side, VideoFile, VideoPair, find_sequences, missing, open_pair
from mimicmotion.generate.provenance import installed
from mimicmotion.runtime.extras import import_extra
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.settings.evaluation import EvaluateConfig
from mimicmotion.settings.metrics import FRECHET

logger = logging.getLogger(__name__)

FEATURES_VERSION = 1
PACKAGES = ("numpy", "opencv-python-headless", "av", "pillow", "scikit-image", "torch", "onnxruntime")


Rows = dict[tuple[str, str], Row]
"""(Method, sequence) -> its row."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A video that could not be measured."""

    method: str
    sequence: str
    reason: str


@dataclass(slots=True)
class Evaluation:
    """Content of a report.

    Attributes:
        config: the settings.
        protocol: the compared sequences and the compared part of each frame.
        selection: metrics and networks.
        methods: names of the methods, in the given order.
        rows: results for each sequence and method.
        summary: means, intervals, differences.
        failures: videos that could not be measured.
        notes: notes on missing or adapted data.
        inputs: sha256 of each video: method (or "real") -> sequence -> checksum.
        reused: number of results taken from the cache, and of results computed.
    """

    config: EvaluateConfig
    protocol: Protocol
    selection: Selection
    methods: list[str]
    rows: list[Row]
    summary: Summary
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)
    reused: tuple[int, int] = (0, 0)


def run_evaluation(config: EvaluateConfig) -> Job[Evaluation]:
    """Measure all methods.

    Raises:
        InputError: folders, settings or protocol are invalid; with `strict`, also any other problem.
        WeightsError: the network of a requested metric is not installed.
    """
    return (yield from _Run(config).steps())


def environment() -> dict[str, str]:
    """Versions and processors that results may depend on."""
    found = {"mimicmotion": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return found | installed(*PACKAGES) | {"processors": str(os.cpu_count())}


class _Run:
    def __init__(self, config: EvaluateConfig) -> None:
        for module in ("scipy.stats", "matplotlib"):  # fail before the long work, not in the report
            import_extra(module, "eval")
        self.config, self.protocol = config, load_protocol(config.protocol)
        self.cache = ResultCache(enabled=config.cache)
        self.failures: list[Failure] = []
        self.notes: list[str] = []
        self.inputs: dict[str, dict[str, str]] = {}
        self.borders: dict[tuple[str, str], list[int]] = {}
        self.rows: Rows = {}

    def steps(self) -> Job[Evaluation]:
        config, methods = self.config, list(self.config.generated)
        real = find_sequences(config.real, self.protocol)
        found = {m: find_sequences(folder, self.protocol) for m, folder in config.generated.items()}
        self._check_missing(real, found)
        self.selection = select_metrics(config)
        groups, networks = self.selection.groups, self.selection.networks
        # loads the network now, so that a wrong file fails before the long work
        self.people = People(self.cache, self.notes, networks.get("identity"))
        pairs = yield from self._look(real, found)
        self.rows = {(p.method, p.sequence): Row(p.sequence, p.method, p.frames, {}, p.notes) for p in pairs}
        yield from self._each("measure", pairs, self._measure)
        if "poses" in groups:
            yield from self._each("poses", pairs, self._poses)
        if "identity" in groups:
            yield from self._each("identity", pairs, self._identity)
        sets: dict[str, Sets] = {}
        for network in (networks[g] for g in groups if g.replace("-", "_") in FRECHET):
            sets[network.group] = of = {m: {} for m in methods}
            yield from self._each(network.group, pairs, partial(self._features, network, of))
        measured = list(self.rows.values())
        summary = summarise_rows(measured, methods)
        for group, of in sets.items():
            for done, total in add_frechet(summary, networks[group].metric, of, infinite=config.fd_infinity):
                yield Progress(f"{group} interval", done, total)
        self._note_uneven(measured, methods)
        notes = [*self.selection.notes, *self.notes, *summary.notes]
        parts = self.failures, notes, self.inputs, (self.cache.hits, self.cache.misses)
        return Evaluation(config, self.protocol, self.selection, methods, measured, summary, *parts)

    def _check_missing(self, real: dict[str, Path], found: dict[str, dict[str, Path]]) -> None:
        lines = missing(real, found, self.protocol.sequences)
        if lines and self.config.strict:
            got = "; ".join(lines[:10]) + (f"; and {len(lines) - 10} more" if len(lines) > 10 else "")
            raise InputError(got, "the same sequences in all folders", "add the videos, or leave out --strict")
        if not real or not any(s in of for of in found.values() for s in real):
            have = ", ".join(sorted({s for of in found.values() for s in of})[:5]) or "none"
            got = f"no common sequence (real: {', '.join(list(real)[:5]) or 'none'}; generated: {have})"
            same = "videos with the same names (suffixes may differ)"
            raise InputError(got, same, "rename them, or check --protocol")
        self.notes += lines
        if any(line.startswith("real: ") for line in lines):
            self.notes.append(
                f"this is not a result of protocol {self.protocol.name}: some of its sequences are missing"
            )

    def _look(self, real: dict[str, Path], found: dict[str, dict[str, Path]]) -> Job[list[VideoPair]]:
        """Open all pairs; a damaged video is recorded as a failure and its sequence left out."""
        todo = [(s, m) for s in real for m in found if s in found[m]]
        sources: dict[tuple[str, str], VideoFile] = {}
        pairs: list[VideoPair] = []
        for i, (sequence, method) in enumerate(todo):
            yield Progress("look", i, len(todo), f"{method} {sequence}")
            try:
                for name, path in (("real", real[sequence]), (method, found[method][sequence])):
                    if (name, sequence) not in sources:
                        sources[name, sequence] = VideoFile(path, content_digest(path))
                        self.inputs.setdefault(name, {})[sequence] = sources[name, sequence].digest
                both = sources["real", sequence], sources[method, sequence]
                pairs.append(open_pair(sequence, method, *both, self.config, self.protocol, self.cache))
            except InputError as e:
                self._failed(method, sequence, e)
        yield Progress("look", len(todo), len(todo))
        return pairs

    def _failed(self, method: str, sequence: str, error: InputError) -> None:
        if self.config.strict:
            raise error
        logger.warning("%s, %s: %s", method, sequence, error.got)
        self.failures.append(Failure(method, sequence, error.got))

    def _each(
        self, stage: str, pairs: Sequence[VideoPair], work: Callable[[VideoPair, Row], Iterator[int]]
    ) -> Job[None]:
        """Run `work` on every pair. A pair that fails is left out entirely, so partial measurements do not count."""
        total, done = sum(p.frames for p in pairs), 0
        for pair in pairs:
            key = pair.method, pair.sequence
            if key in self.rows:
                try:
                    for frames in work(pair, self.rows[key]):
                        yield Progress(stage, done + frames, total, f"{pair.method} {pair.sequence}")
                except InputError as e:
                    self._failed(*key, e)
                    del self.rows[key]
            done += pair.frames
            yield Progress(stage, done, total)

    def _measure(self, pair: VideoPair, row: Row) -> Iterator[int]:
        """All metrics that compare frame with frame, in one pass."""
        table = measures.FIELD if self.config.convention == "field" else measures.EXACT
        groups = [g for g in self.selection.groups if g in table or g in ("lpips", "lpips-vgg")]
        if "seams" in self.selection.groups and self._find_borders(pair):
            groups.append("seams")
        keys = {g: self._key(pair, g) for g in groups}
        known = {g: self.cache.get(keys[g]) for g in groups}
        made = {g: self._measures(pair, g, table) for g in groups if known[g] is None}
        if made:
            yield from measures.run_measures(pair.chunks(), [m for ms in made.values() for m in ms])
        for group, ms in made.items():
            values = {k: v for m in ms for k, v in m.result().items()}
            self.cache.put(keys[group], values)
            known[group] = values
        for group in groups:
            row.values |= known[group] or {}

    def _key(self, pair: VideoPair, group: str) -> dict[str, Any]:
        network = self.selection.networks.get(group)
        field = self.config.convention == "field" and group in ("psnr", "ssim", "l1", "lpips", "lpips-vgg")
        borders = {"borders": self.borders[pair.method, pair.sequence]} if group == "seams" else {}
        return borders | {
            "kind": group,
            "version": measures.VERSIONS[group],
            "convention": "field" if field else "exact",
            "network": network.digest if network else None,
            "real": pair.key(pair.real),
            "generated": pair.key(pair.generated),
        }

    def _measures(self, pair: VideoPair, group: str, table: dict[str, Any]) -> list[measures.Measure]:
        if group == "seams":
            return [measures.seam_score(self.borders[pair.method, pair.sequence])]
        if group in table:
            return [make() for make in table[group]]
        field = self.config.convention == "field" and group == "lpips-vgg"
        return [measures.lpips_mean(self.selection.networks[group].load(), field=field)]

    def _find_borders(self, pair: VideoPair) -> list[int]:
        """Segment borders of a result, or a note on why there are none."""
        found = self.config.borders
        if found is None and (fusion := sidecar_fusion(pair.generated.reader.path)) is not None:
            found = segment_borders(pair.made, fusion)
        if pair.fps is not None:
            why = "its frames are resampled"
        elif found is None:
            why = "segment borders are unknown (no OUTPUT.json beside it, no --borders)"
        else:
            self.borders[pair.method, pair.sequence] = borders = [b for b in sorted(set(found)) if b < pair.frames]
            if borders:
                return borders
            why = "no border lies within it"
        self.notes.append(f"{pair.method}, {pair.sequence}: no seam score: {why}")
        return []

    def _poses(self, pair: VideoPair, row: Row) -> Iterator[int]:
        found = yield from self.people.poses(pair, pair.generated, 0)
        if self.config.driving is None:
            truth = yield from self.people.poses(pair, pair.real, pair.frames // 2)
        else:
            truth = pair_poses(self.config.driving, pair)
        try:
            row.values |= pose_numbers(found, truth)
        except PoseError as e:
            self.notes.append(f"{pair.method}, {pair.sequence}: no pose fidelity: {e.got}")

    def _identity(self, pair: VideoPair, row: Row) -> Iterator[int]:
        row.values |= yield from self.people.identity(pair)

    def _features(self, network: MetricNetwork, sets: Sets, pair: VideoPair, row: Row) -> Iterator[int]:  # noqa: ARG002
        """Add the features of a pair's clips to `sets`."""
        if pair.frames < network.length:
            text = f"{pair.frames} frames are too few for a clip of {network.length}: left out of {network.group}"
            self.notes.append(f"{pair.method}, {pair.sequence}: {text}")
            return
        real = self._clip_features(network, pair, pair.real)
        yield pair.frames // 2
        sets[pair.method][pair.sequence] = real, self._clip_features(network, pair, pair.generated)

    def _clip_features(self, network: MetricNetwork, pair: VideoPair, side: Side) -> Float32[ndarray, "clips dim"]:
        config = self.config
        key = {"kind": "features", "version": FEATURES_VERSION, "network": network.digest, "group": network.group}
        key |= {"length": network.length, "clips": config.clips, "fit": "squash"} | {"side": pair.key(side)}
        known = self.cache.get(key)
        if known is None:
            known = features(pair.fitted(side), network.load(), mode=config.clips)
            if not np.isfinite(known).all():
                got = f"NaN in the {network.title} features of {side.reader.path}"
                raise InputError(got, "finite features", "check these videos for damaged frames")
            self.cache.put(key, known)
        return known

    def _note_uneven(self, rows: Sequence[Row], methods: Sequence[str]) -> None:
        sequences = {m: {r.sequence for r in rows if r.method == m} for m in methods}
        if len(set(map(frozenset, sequences.values()))) > 1:
            text = ", ".join(f"{m} {len(s)}" for m, s in sequences.items())
            self.notes.append(f"unequal sets of sequences ({text}): compare methods by the paired differences only")
