"""Evaluate methods on a set of real videos, reusing cached measurements, and write the report."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from mimicmotion.errors import InputError, PoseError
from mimicmotion.evaluation.cache import ResultCache
from mimicmotion.evaluation.metrics import measures
from mimicmotion.evaluation.metrics.identity import Embeddings, embeddings, identity_numbers
from mimicmotion.evaluation.metrics.poses import detection_size, enlarged, pose_numbers
from mimicmotion.evaluation.metrics.temporal import segment_borders, sidecar_fusion
from mimicmotion.evaluation.networks.features import features
from mimicmotion.evaluation.protocols import load_protocol
from mimicmotion.evaluation.reports.report import FILES, save_report
from mimicmotion.evaluation.reports.summary import Row, Sets, Summary, add_frechet, summarise_rows
from mimicmotion.evaluation.selection import MetricNetwork, select_metrics
from mimicmotion.evaluation.videos import Side, VideoPair, content_digest, find_sequences, missing, open_pair
from mimicmotion.pose.estimators.holistic.estimator import SOURCE, HolisticEstimator
from mimicmotion.pose.files import load_poses
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.extras import import_extra
from mimicmotion.runtime.files import check_not_inputs, check_writable
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.settings.evaluation import EvaluateConfig
from mimicmotion.settings.metrics import FRECHET

logger = logging.getLogger(__name__)

FEATURES_VERSION = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """A video that could not be measured."""

    method: str
    sequence: str
    reason: str


def evaluate(config: EvaluateConfig) -> Job[Evaluation]:
    """Measure all methods and write the report. An interrupted run can be repeated and reuses its measurements.

    Raises:
        InputError: folders, settings or protocol are invalid; with `strict`, also any other problem.
        WeightsError: the network of a requested metric is not installed.
        OutputError: the report cannot be written.
    """
    files = [config.output / name for name in FILES]
    read = [getattr(config, f.name) for f in dataclasses.fields(config) if f.name != "output"]
    check_not_inputs([*config.generated.values(), *(p for p in read if isinstance(p, str | Path))], files)
    for path in files:
        check_writable(path)
    done = yield from Evaluation(config).run()
    save_report(config.output, done)
    return done


class Evaluation:
    """Measures all methods and collects the content of the report.

    Args:
        config: the settings.

    Attributes:
        methods: names of the methods, in the given order.
        protocol: the compared sequences and the compared part of each frame.
        networks: the computed metrics, each with its network; None if it needs none.
        summary: means, intervals, differences.
        failures: videos that could not be measured.
        notes: notes on missing or adapted data.
        inputs: sha256 of each video: method (or "real") -> sequence -> checksum.

    Raises:
        ConfigError: the protocol is invalid, or a package is missing.
    """

    networks: dict[str, MetricNetwork | None]
    summary: Summary

    def __init__(self, config: EvaluateConfig) -> None:
        for module in ("scipy.stats", "matplotlib"):  # fail now rather than when the report is written
            import_extra(module, "eval")
        self.config, self.methods, self.protocol = config, list(config.generated), load_protocol(config.protocol)
        self.failures: list[Failure] = []
        self.notes: list[str] = []
        self.inputs: dict[str, dict[str, str]] = {}
        self._cache = ResultCache(enabled=config.cache)
        self._rows: dict[tuple[str, str], Row] = {}

    @property
    def rows(self) -> list[Row]:
        """Results for each sequence and method."""
        return list(self._rows.values())

    @property
    def reused(self) -> tuple[int, int]:
        """Number of results read from the cache, and number of results computed."""
        return self._cache.hits, self._cache.misses

    def run(self) -> Job[Evaluation]:
        """Measure all methods, and return the evaluation itself.

        Raises:
            InputError: folders or settings are invalid; with `strict`, also any other problem.
            WeightsError: the network of a requested metric is not installed.
        """
        config = self.config
        real = find_sequences(config.real, self.protocol)
        found = {m: find_sequences(folder, self.protocol) for m, folder in config.generated.items()}
        self._check_missing(real, found)
        self.networks, notes = select_metrics(config)
        self.notes = [*notes, *self.notes]
        if faces := self.networks.get("identity"):
            faces.load()  # now, so that a wrong file fails early
        pairs = yield from self._open_pairs(real, found)
        self._rows = {(p.method, p.sequence): Row(p.sequence, p.method, p.frames, {}, p.notes) for p in pairs}
        yield from self._measure_pairs("measure", pairs, self._measure)
        if "poses" in self.networks:
            yield from self._measure_pairs("poses", pairs, self._poses)
        if "identity" in self.networks:
            yield from self._measure_pairs("identity", pairs, self._identity)
        sets: dict[str, Sets] = {}
        for group, network in self.networks.items():
            if network is not None and group.replace("-", "_") in FRECHET:
                sets[group] = {m: {} for m in self.methods}
                yield from self._measure_pairs(group, pairs, partial(self._features, network, sets[group]))
        self.summary = summarise_rows(self.rows, self.methods)
        for group, of in sets.items():
            for done, total in add_frechet(self.summary, group.replace("-", "_"), of, infinite=config.fd_infinity):
                yield Progress(f"{group} interval", done, total)
        self._note_uneven()
        self.notes += self.summary.notes
        return self

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

    def _open_pairs(self, real: dict[str, Path], found: dict[str, dict[str, Path]]) -> Job[list[VideoPair]]:
        """Open all pairs. A damaged video is recorded as a failure and left out; with `strict`, it raises an error."""
        todo = [(s, m) for s in real for m in found if s in found[m]]
        pairs: list[VideoPair] = []
        for i, (sequence, method) in enumerate(todo):
            yield Progress("open", i, len(todo), f"{method} {sequence}")
            try:
                paths = real[sequence], found[method][sequence]
                for name, path in zip(("real", method), paths, strict=True):
                    if sequence not in self.inputs.get(name, {}):
                        self.inputs.setdefault(name, {})[sequence] = content_digest(path)
                digests = self.inputs["real"][sequence], self.inputs[method][sequence]
                pairs.append(open_pair(sequence, method, paths, digests, self.config, self.protocol, self._cache))
            except InputError as e:
                self._failed(method, sequence, e)
        yield Progress("open", len(todo), len(todo))
        return pairs

    def _failed(self, method: str, sequence: str, error: InputError) -> None:
        if self.config.strict:
            raise error
        logger.warning("%s, %s: %s", method, sequence, error.got)
        self.failures.append(Failure(method, sequence, error.got))

    def _measure_pairs(
        self, stage: str, pairs: Sequence[VideoPair], work: Callable[[VideoPair, Row], Iterator[int]]
    ) -> Job[None]:
        """Run `work` on every pair. A pair that fails is left out entirely, so partial measurements do not count."""
        total, done = sum(p.frames for p in pairs), 0
        for pair in pairs:
            key = pair.method, pair.sequence
            if key in self._rows:
                try:
                    for frames in work(pair, self._rows[key]):
                        yield Progress(stage, done + frames, total, f"{pair.method} {pair.sequence}")
                except InputError as e:
                    self._failed(*key, e)
                    del self._rows[key]
            done += pair.frames
            yield Progress(stage, done, total)

    def _measure(self, pair: VideoPair, row: Row) -> Iterator[int]:
        """Compute all metrics that need no poses, faces or features, in one pass; yields the number of frames done."""
        field = self.config.convention == "field"
        table = measures.FIELD if field else measures.EXACT
        made: list[tuple[dict[str, Any], list[measures.Measure | measures.Flicker]]] = []
        for group, network in self.networks.items():
            borders = self._find_borders(pair) if group == "seams" else []
            if group not in (*table, "lpips", "lpips-vgg") and not borders:
                continue
            by_field = field and group in ("psnr", "ssim", "l1", "lpips", "lpips-vgg")
            key = ({"borders": borders} if borders else {}) | {
                "kind": group,
                "version": measures.VERSIONS[group],
                "convention": "field" if by_field else "exact",
                "network": network and network.digest,
                "real": pair.key(pair.real),
                "generated": pair.key(pair.generated),
            }
            known = self._cache.get(key)
            if known is not None:
                row.values |= known
            elif borders:
                made.append((key, [measures.seam_score(borders)]))
            elif network is not None:
                made.append((key, [measures.lpips_mean(network.load(), field=field and group == "lpips-vgg")]))
            else:
                made.append((key, [make() for make in table[group]]))
        if made:
            yield from measures.run_measures(pair.chunks(), [m for _, ms in made for m in ms])
        for key, ms in made:
            values = {k: v for m in ms for k, v in m.result().items()}
            self._cache.put(key, values)
            row.values |= values

    def _find_borders(self, pair: VideoPair) -> list[int]:
        """Return the segment borders of a result, or add a note on why there are none."""
        found = self.config.borders
        if found is None and (fusion := sidecar_fusion(pair.generated.reader.path)) is not None:
            found = segment_borders(pair.made, fusion)
        borders = sorted(b for b in set(found or ()) if b < pair.frames)
        if pair.fps is None and borders:
            return borders
        why = "no border lies within it"
        if pair.fps is not None:
            why = "its frames are resampled"
        elif found is None:
            why = "segment borders are unknown (no OUTPUT.json beside it, no --borders)"
        self.notes.append(f"{pair.method}, {pair.sequence}: no seam score: {why}")
        return []

    def _poses(self, pair: VideoPair, row: Row) -> Iterator[int]:
        found = yield from self._find_poses(pair, pair.generated, 0)
        if self.config.driving is None:
            truth = yield from self._find_poses(pair, pair.real, pair.frames // 2)
        else:
            truth = pair_poses(self.config.driving, pair)
        try:
            row.values |= pose_numbers(found, truth)
        except PoseError as e:
            self.notes.append(f"{pair.method}, {pair.sequence}: no pose fidelity: {e.got}")

    def _find_poses(self, pair: VideoPair, side: Side, before: int) -> Generator[int, None, PoseSequence]:
        """Poses of one side of a pair, in pixels of the compared frames; progress is counted from `before` frames."""
        key = {"kind": "poses", "version": measures.VERSIONS["poses"], "estimator": SOURCE} | pair.key(side)
        points = self._cache.get(key)
        if points is None:
            found = []
            for xy, confidence in self._estimator.estimate_stream(enlarged(pair.fitted(side), pair.size)):
                found.append(np.concatenate([xy, confidence[:, None]], 1))
                yield min(before + len(found) // 2, pair.frames)
            points = np.stack(found).astype(np.float32)
            height, width = detection_size(pair.size)
            points[..., :2] *= np.array([pair.size[1] / width, pair.size[0] / height], np.float32)
            self._cache.put(key, points)
        return PoseSequence(points[..., :2], points[..., 2], pair.size, pair.fps or 0.0, SOURCE)

    @cached_property
    def _estimator(self) -> HolisticEstimator:
        # one thread, so that the result is reproducible
        return HolisticEstimator(threads=1, device="cpu")

    def _identity(self, pair: VideoPair, row: Row) -> Iterator[int]:
        real = yield from self._embeddings(pair, pair.real, 0)
        made = yield from self._embeddings(pair, pair.generated, pair.frames // 2)
        if not np.isfinite(real).all(1).any():
            self.notes.append(f"{pair.method}, {pair.sequence}: no identity: no reliable face in the real frames")
        row.values |= identity_numbers(made, real)

    def _embeddings(self, pair: VideoPair, side: Side, before: int) -> Generator[int, None, Embeddings]:
        """Face embeddings of one side of a pair, one per frame; NaN without a reliable face."""
        network = self.networks["identity"]
        assert network is not None
        versions = [measures.VERSIONS["identity"], measures.VERSIONS["poses"], SOURCE]
        key = {"kind": "identity", "versions": versions, "network": network.digest, "side": pair.key(side)}
        known = self._cache.get(key)
        if known is None:
            poses = yield from self._find_poses(pair, side, before)
            found = []
            for vector in embeddings(pair.fitted(side), poses, network.load()):
                found.append(vector)
                yield min(before + len(found) // 2, pair.frames)
            known = np.stack(found)
            self._cache.put(key, known)
        return known

    def _features(self, network: MetricNetwork, sets: Sets, pair: VideoPair, row: Row) -> Iterator[int]:  # noqa: ARG002
        """Add the features of a pair's clips to `sets`, or a note if the videos are too short for a clip."""
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
        known = self._cache.get(key)
        if known is None:
            known = features(pair.fitted(side), network.load(), mode=config.clips)
            if not np.isfinite(known).all():
                got = f"NaN in the {network.title} features of {side.reader.path}"
                raise InputError(got, "finite features", "check these videos for damaged frames")
            self._cache.put(key, known)
        return known

    def _note_uneven(self) -> None:
        sequences = {m: {r.sequence for r in self.rows if r.method == m} for m in self.methods}
        if len(set(map(frozenset, sequences.values()))) > 1:
            text = ", ".join(f"{m} {len(s)}" for m, s in sequences.items())
            self.notes.append(f"unequal sets of sequences ({text}): compare methods by the paired differences only")


def pair_poses(folder: Path, pair: VideoPair) -> PoseSequence:
    """Load the true poses of a sequence, resampled to the compared frames and in their pixel coordinates.

    Raises:
        PoseError: the file is missing, malformed, or has too few frames.
    """
    poses = load_poses(folder / f"{pair.sequence}.npz").scaled(pair.real.reader.info.size)
    index = np.arange(pair.frames)
    if pair.fps is not None and poses.fps:
        index = np.minimum(np.rint(index * poses.fps / pair.fps).astype(int), len(poses) - 1)
    if len(poses) <= index[-1]:
        got = f"{folder / pair.sequence}.npz has {len(poses)} poses"
        raise PoseError(got, f"a pose for each of {pair.frames} frames", "estimate the poses of the whole video")
    taken = PoseSequence(poses.xy[index], poses.confidence[index], poses.size, pair.fps or poses.fps, poses.source)
    return taken.fitted(pair.real.fit)
