"""Poses and faces in real and generated frames, each estimated once and cached."""

from __future__ import annotations

from collections.abc import Generator
from functools import cached_property
from pathlib import Path

import numpy as np

from mimicmotion.errors import PoseError
from mimicmotion.evaluation.cache import ResultCache
from mimicmotion.evaluation.metrics import measures
from mimicmotion.evaluation.metrics.identity import Embeddings, embeddings, identity_numbers
from mimicmotion.evaluation.metrics.poses import detection_size, enlarged
from mimicmotion.evaluation.networks.faces import FaceNetwork
from mimicmotion.evaluation.selection import MetricNetwork
from mimicmotion.evaluation.videos import Side, VideoPair
from mimicmotion.pose.estimators.holistic.estimator import SOURCE, HolisticEstimator
from mimicmotion.pose.files import load_poses
from mimicmotion.pose.keypoints import PoseSequence


class People:
    """Poses and faces of pairs of videos.

    Args:
        cache: cache of poses and face embeddings.
        notes: notes for the report, to which new ones are appended.
        network: face network, if identity similarity was requested.

    Raises:
        WeightsError: the file is not a face network.
    """

    def __init__(self, cache: ResultCache, notes: list[str], network: MetricNetwork | None = None) -> None:
        self.cache, self.notes = cache, notes
        if network is not None:
            self.faces: FaceNetwork = network.load()
            self.digest = network.digest

    @cached_property
    def estimator(self) -> HolisticEstimator:
        """The bundled pose estimator, opened on first use."""
        # one thread, so that the result is reproducible
        return HolisticEstimator(threads=1, device="cpu")

    def poses(self, pair: VideoPair, side: Side, before: int) -> Generator[int, None, PoseSequence]:
        """Poses in one side of a pair, in pixels of the compared frames; yields the frames done so far.

        Args:
            pair: the videos.
            side: one of them.
            before: frames already reported as done.
        """
        key = {"kind": "poses", "version": measures.VERSIONS["poses"], "estimator": SOURCE} | pair.key(side)
        points = self.cache.get(key)
        if points is None:
            found = []
            for xy, confidence in self.estimator.estimate_stream(enlarged(pair.fitted(side), pair.size)):
                found.append(np.concatenate([xy, confidence[:, None]], 1))
                yield min(before + len(found) // 2, pair.frames)
            points = np.stack(found).astype(np.float32)
            height, width = detection_size(pair.size)
            points[..., :2] *= np.array([pair.size[1] / width, pair.size[0] / height], np.float32)
            self.cache.put(key, points)
        return PoseSequence(points[..., :2], points[..., 2], pair.size, pair.fps or 0.0, SOURCE)

    def identity(self, pair: VideoPair) -> Generator[int, None, dict[str, float]]:
        """Numbers on identity similarity; yields the frames done so far."""
        real = yield from self._embeddings(pair, pair.real, 0)
        made = yield from self._embeddings(pair, pair.generated, pair.frames // 2)
        if not np.isfinite(real).all(1).any():
            self.notes.append(f"{pair.method}, {pair.sequence}: no identity: no reliable face in the real frames")
        return identity_numbers(made, real)

    def _embeddings(self, pair: VideoPair, side: Side, before: int) -> Generator[int, None, Embeddings]:
        """Face embeddings of one side of a pair, one per frame; NaN without a reliable face."""
        versions = [measures.VERSIONS["identity"], measures.VERSIONS["poses"], SOURCE]
        key = {"kind": "identity", "versions": versions, "network": self.digest, "side": pair.key(side)}
        known = self.cache.get(key)
        if known is None:
            poses = yield from self.poses(pair, side, before)
            found = []
            for vector in embeddings(pair.fitted(side), poses, self.faces):
                found.append(vector)
                yield min(before + len(found) // 2, pair.frames)
            known = np.stack(found)
            self.cache.put(key, known)
        return known


def pair_poses(folder: Path, pair: VideoPair) -> PoseSequence:
    """The true poses of a sequence from a pose file, for the compared frames and in their pixels.

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
