"""Evaluate methods on a set of real videos: what is known is taken from the cache, the rest is measured and kept."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from mimicmotion import __version__
from mimicmotion.errors import InputError, PoseError
from mimicmotion.evaluation.cache import ResultCache
from mimicmotion.evaluation.metrics import measures
from mimicmotion.evaluation.metrics.poses import pose_numbers
from mimicmotion.evaluation.metrics.seams import segment_borders, sidecar_fusion
from mimicmotion.evaluation.people import People, driving_poses
from mimicmotion.evaluation.protocols import Protocol, load_protocol, plain_name
from mimicmotion.evaluation.reports.summary import Row, Sets, Summary, add_frechet, summarise_rows
from mimicmotion.evaluation.selection import Network, Selection, select_metrics
from mimicmotion.evaluation.videos import VideoFile, VideoPair, find_sequences, missing, open_pair
from mimicmotion.runtime.extras import import_extra
from mimicmotion.runtime.versions import installed
from mimicmotion.settings import FusionConfig
from mimicmotion.settings.evaluation import EvaluateConfig
from mimicmotion.settings.metrics import FRECHET

logger = logging.getLogger(__name__)

FEATURES_VERSION = 1
PACKAGES = ("numpy", "opencv-python-headless", "av", "pillow", "scikit-image", "torch", "onnxruntime")


class Step(NamedTuple):
    """Progress of an evaluation: stage, units done, units in all, what is shown beside it."""

    stage: str
    done: int
    total: int | None
    note: str = ""


Steps = Generator[Step, None, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """A video that could not be measured; the rest went on."""

    method: str
    sequence: str
    reason: str


@dataclass(slots=True)
class Evaluation:
    """All that a report says.

    Attributes:
        config: the settings.
        protocol: which part of which sequences.
        selection: metrics and networks.
        methods: names, in the order given.
        rows: numbers of each sequence and method.
        summary: means, intervals, differences.
        failures: videos that could not be measured.
        notes: sentences on what is missing or was adapted.
        inputs: checksums of the videos: method (or "real") -> sequence -> sha256.
        reused: how many cached results were taken, and how many were made.
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


def evaluate(config: EvaluateConfig) -> Generator[Step, None, Evaluation]:
    """Measure all methods; yields its progress.

    Raises:
        InputError: folders, settings or protocol are wrong; with `strict`, also whatever else is amiss.
        WeightsError: a metric was asked for whose network is not here.
    """
    return (yield from _Run(config).steps())


def environment() -> dict[str, str]:
    """Versions and processor, as far as numbers may depend on them."""
    found = {"mimicmotion": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return found | installed(*PACKAGES) | {"processors": str(os.cpu_count())}


class _Run:
    def __init__(self, config: EvaluateConfig) -> None:
        for module in ("scipy.stats", "matplotlib"):  # what the report needs is missed before the long work
            import_extra(module, "eval")
        self.config, self.protocol = config, load_protocol(config.protocol)
        self.cache = ResultCache(config.cache_dir, enabled=config.cache)
        self.failures: list[Failure] = []
        self.notes: list[str] = []
        self.inputs: dict[str, dict[str, str]] = {}
        self.loaded: dict[str, Any] = {}
        self.borders: dict[tuple[str, str], list[int]] = {}

    def steps(self) -> Generator[Step, None, Evaluation]:
        config, methods = self.config, list(self.config.generated)
        real = find_sequences(config.real, self.protocol)
        found = {m: find_sequences(folder, self.protocol) for m, folder in config.generated.items()}
        self._check_missing(real, found)
        self.selection = select_metrics(config)
        faces = self.selection.networks.get("identity")
        rename = plain_name if self.protocol.sequences else str
        # a wrong file comes up before the long work
        self.people = People(config, self.cache, self.notes, faces=self._load(faces) if faces else None, rename=rename)
        pairs = yield from self._look(real, found)
        rows = {(p.method, p.sequence): Row(p.sequence, p.method, p.frames, {}, p.notes) for p in pairs}
        yield from self._each("measure", pairs, rows, self._measure)
        if "poses" in self.selection.groups:
            yield from self._each("poses", pairs, rows, self._poses)
        if "identity" in self.selection.groups:
            yield from self._each("identity", pairs, rows, self._identity)
        sets: dict[str, Sets] = {}
        for group in self._frechet_groups():
            sets[group] = yield from self._features(group, pairs, rows)
        measured = [rows[p.method, p.sequence] for p in pairs if (p.method, p.sequence) in rows]
        summary = summarise_rows(measured, methods, config)
        for group, of in sets.items():
            for done, total in add_frechet(summary, self.selection.networks[group].metric, of, config):
                yield Step(f"{group} interval", done, total)
        self._say_if_uneven(measured, methods)
        notes = [*self.selection.notes, *self.notes, *summary.notes]
        reused = self.cache.hits, self.cache.misses
        parts = self.failures, notes, self.inputs, reused
        return Evaluation(config, self.protocol, self.selection, methods, measured, summary, *parts)

    def _check_missing(self, real: dict[str, Path], found: dict[str, dict[str, Path]]) -> None:
        lines = missing(real, found, self.protocol.sequences)
        if lines and self.config.strict:
            got = "; ".join(lines[:10]) + (f"; and {len(lines) - 10} more" if len(lines) > 10 else "")
            raise InputError(got, "the same sequences in all folders", "add the videos, or leave out --strict")
        if not real or not any(s in of for of in found.values() for s in real):
            have = ", ".join(sorted({s for of in found.values() for s in of})[:5]) or "none"
            got = f"no common sequence (real: {', '.join(list(real)[:5]) or 'none'}; generated: {have})"
            raise InputError(
                got, "videos of the same names (whatever their suffix)", "rename them, or check --protocol"
            )
        self.notes += lines
        if any(line.startswith("real: ") for line in lines):
            self.notes.append(f"sequences of the protocol {self.protocol.name} are missing: these are not its numbers")

    def _look(self, real: dict[str, Path], found: dict[str, dict[str, Path]]) -> Generator[Step, None, list[VideoPair]]:
        """Open all pairs; a damaged video is noted once and its sequence left out."""
        todo = [(s, m) for s in real for m in found if s in found[m]]
        sources: dict[tuple[str, str], VideoFile] = {}
        pairs: list[VideoPair] = []
        for i, (sequence, method) in enumerate(todo):
            yield Step("look", i, len(todo), f"{method} {sequence}")
            try:
                for name, path in (("real", real[sequence]), (method, found[method][sequence])):
                    if (name, sequence) not in sources:
                        sources[name, sequence] = VideoFile.of(path, self.config)
                        self.inputs.setdefault(name, {})[sequence] = sources[name, sequence].digest
                both = sources["real", sequence], sources[method, sequence]
                pairs.append(open_pair(sequence, method, *both, self.config, self.protocol, self.cache))
            except InputError as e:
                self._failed(method, sequence, e)
        yield Step("look", len(todo), len(todo))
        return pairs

    def _failed(self, method: str, sequence: str, error: InputError) -> None:
        if self.config.strict:
            raise error
        logger.warning("%s, %s: %s", method, sequence, error.got)
        self.failures.append(Failure(method, sequence, error.got))

    def _each(self, stage: str, pairs: Sequence[VideoPair], rows: dict[tuple[str, str], Row], work: Any) -> Steps:
        """Do the work of every pair; one that fails loses its row, so that no half-measured one is counted."""
        total, done = sum(p.frames for p in pairs), 0
        for pair in pairs:
            key = pair.method, pair.sequence
            if key in rows:
                try:
                    for frames in work(pair, rows[key]):
                        yield Step(stage, done + frames, total, f"{pair.method} {pair.sequence}")
                except InputError as e:
                    self._failed(*key, e)
                    rows.pop(key, None)
            done += pair.frames
            yield Step(stage, done, total)

    def _measure(self, pair: VideoPair, row: Row) -> Iterator[int]:
        """Everything that looks at a pair of frames, in one pass."""
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
            "real": pair.half_key("real"),
            "generated": pair.half_key("generated"),
        }

    def _measures(self, pair: VideoPair, group: str, table: dict[str, Any]) -> list[measures.Measure]:
        if group == "seams":
            return [measures.seam_score(self.borders[pair.method, pair.sequence])]
        if group in table:
            return [make() for make in table[group]]
        field = self.config.convention == "field" and group == "lpips-vgg"
        return [measures.lpips_mean(self._load(self.selection.networks[group]), field=field)]

    def _find_borders(self, pair: VideoPair) -> list[int]:
        """Where the segments of a result meet; a note where nothing says so."""
        config = self.config
        fusion = config.segments() or (None if config.borders else sidecar_fusion(pair.generated.path))
        if pair.fps is not None:
            why = "its frames are resampled"
        elif config.borders or fusion is not None:
            borders = list(config.borders or segment_borders(pair.made, fusion or FusionConfig()))
            borders = [b for b in sorted(set(borders)) if b < pair.frames]
            self.borders[pair.method, pair.sequence] = borders
            if borders:
                return borders
            why = "it is a single segment" if fusion else "no border lies within it"
        else:
            why = "nothing says where segments begin (no OUTPUT.json beside it, no --segment-frames, no --borders)"
        self.notes.append(f"{pair.method}, {pair.sequence}: no seam score: {why}")
        return []

    def _load(self, network: Network) -> Any:
        if network.group not in self.loaded:
            self.loaded[network.group] = network.load()
        return self.loaded[network.group]

    def _poses(self, pair: VideoPair, row: Row) -> Iterator[int]:
        found = yield from self.people.poses(pair, "generated", 0)
        if self.config.driving is None:
            truth = yield from self.people.poses(pair, "real", pair.frames // 2)
        else:
            truth = driving_poses(self.config.driving, pair)
        try:
            row.values |= pose_numbers(found, truth)
        except PoseError as e:
            self.notes.append(f"{pair.method}, {pair.sequence}: no pose fidelity: {e.got}")

    def _identity(self, pair: VideoPair, row: Row) -> Iterator[int]:
        row.values |= yield from self.people.identity(pair)

    def _frechet_groups(self) -> list[str]:
        return [g for g in self.selection.groups if g.replace("-", "_") in FRECHET]

    def _features(
        self, group: str, pairs: Sequence[VideoPair], rows: dict[tuple[str, str], Row]
    ) -> Generator[Step, None, Sets]:
        network = self.selection.networks[group]
        sets: Sets = {m: {} for m in self.config.generated}

        def work(pair: VideoPair, row: Row) -> Iterator[int]:  # noqa: ARG001
            if pair.frames < network.length:
                text = f"{pair.frames} frames make no clip of {network.length}: left out of {group}"
                self.notes.append(f"{pair.method}, {pair.sequence}: {text}")
                return
            real = self._clip_features(network, pair, "real")
            yield pair.frames // 2
            sets[pair.method][pair.sequence] = real, self._clip_features(network, pair, "generated")

        yield from self._each(group, pairs, rows, work)
        return sets

    def _clip_features(self, network: Network, pair: VideoPair, which: str) -> Float32[ndarray, "clips dim"]:
        config = self.config
        key = {"kind": "features", "version": FEATURES_VERSION, "network": network.digest, "group": network.group}
        key |= {"length": network.length, "clips": config.clips, "fit": config.fit} | {"side": pair.half_key(which)}
        known = self.cache.get_array(key)
        if known is None:
            from mimicmotion.evaluation.metrics.fvd import features

            known = features(pair.side(which), self._load(network), mode=config.clips)
            if not np.isfinite(known).all():
                got = f"NaN in the {network.title} features of the {which} video"
                raise InputError(got, "finite features", "see what made these frames")
            self.cache.put_array(key, known)
        return known

    def _say_if_uneven(self, rows: Sequence[Row], methods: Sequence[str]) -> None:
        sequences = {m: {r.sequence for r in rows if r.method == m} for m in methods}
        if len(set(map(frozenset, sequences.values()))) > 1:
            text = ", ".join(f"{m} {len(s)}" for m, s in sequences.items())
            self.notes.append(f"unequal sets of sequences ({text}): compare methods by the paired differences only")
