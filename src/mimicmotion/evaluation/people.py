"""What `evaluate` sees of the people in real and generated frames: their poses and their faces, found once and kept."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from mimicmotion.errors import PoseError
from mimicmotion.evaluation.cache import ResultCache
from mimicmotion.evaluation.metrics import measures
from mimicmotion.evaluation.metrics.identity import Embeddings, embeddings, identity_numbers, stacked
from mimicmotion.evaluation.metrics.poses import detection_size, enlarged
from mimicmotion.evaluation.networks.faces import FaceNetwork
from mimicmotion.evaluation.reports.listing import list_pictures
from mimicmotion.evaluation.videos import VideoPair
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.files import sha256_file
from mimicmotion.settings.evaluation import EvaluateConfig
from mimicmotion.video.picture import read_picture


class People:
    """Poses and faces of pairs of videos.

    Args:
        config: the settings.
        cache: where what was found is kept.
        notes: sentences for the report are added here.
        faces: the network of identity similarity, if it is wanted.
        rename: makes a sequence's name of the name of its reference picture.

    Raises:
        InputError: the folder of reference pictures is wrong.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        cache: ResultCache,
        notes: list[str],
        *,
        faces: FaceNetwork | None = None,
        rename: Callable[[str], str] = str,
    ) -> None:
        self.config, self.cache, self.notes, self.faces = config, cache, notes, faces
        folder = config.references if faces is not None else None
        self.pictures = list_pictures(folder, rename=rename) if folder is not None else {}
        self.known: dict[str, Embeddings] = {}
        self._estimator: Any = None
        if faces is not None:
            self.digest = sha256_file(faces.path)

    @property
    def estimator(self) -> Any:
        """The bundled pose estimator, opened when it is first needed."""
        if self._estimator is None:
            from mimicmotion.pose.estimators.holistic import HolisticEstimator

            # one thread, so that the result does not depend on the machine's load
            self._estimator = HolisticEstimator(threads=1, device="cpu")
        return self._estimator

    def poses(self, pair: VideoPair, which: str, before: int) -> Generator[int, None, PoseSequence]:
        """Poses found in one side of a pair ("real" or "generated"), in pixels of what is compared; yields frames done.

        Args:
            pair: the videos.
            which: the side.
            before: frames already reported as done.
        """
        from mimicmotion.pose.estimators.holistic.estimator import SOURCE

        key = {"kind": "poses", "version": measures.VERSIONS["poses"], "estimator": SOURCE} | pair.half_key(which)
        points = self.cache.get_array(key)
        if points is None:
            found = []
            for xy, confidence in self.estimator.estimate_stream(enlarged(pair.side(which), pair.size)):
                found.append(np.concatenate([xy, confidence[:, None]], 1))
                yield min(before + len(found) // 2, pair.frames)
            points = np.stack(found).astype(np.float32)
            height, width = detection_size(pair.size)
            points[..., :2] *= np.array([pair.size[1] / width, pair.size[0] / height], np.float32)
            self.cache.put_array(key, points)
        return PoseSequence(points[..., :2], points[..., 2], pair.size, pair.fps or 0.0, SOURCE)

    def identity(self, pair: VideoPair) -> Generator[int, None, dict[str, float]]:
        """Numbers of identity similarity; yields frames done."""
        real = yield from self._embeddings(pair, "real", 0)
        made = yield from self._embeddings(pair, "generated", pair.frames // 2)
        if not np.isfinite(real).all(1).any():
            self.notes.append(f"{pair.method}, {pair.sequence}: no identity: no sure face in the real frames")
        return identity_numbers(made, real, self._reference(pair) if self.pictures else None)

    def _embeddings(self, pair: VideoPair, which: str, before: int) -> Generator[int, None, Embeddings]:
        """Face vectors of one side of a pair, a row a frame; NaN where no face is sure."""
        assert self.faces is not None
        key = self._key() | {"side": pair.half_key(which)}
        known = self.cache.get_array(key)
        if known is None:
            poses = yield from self.poses(pair, which, before)
            found = []
            threshold = self.config.identity_confidence
            for vector in embeddings(pair.side(which), poses, self.faces, threshold=threshold):
                found.append(vector)
                yield min(before + len(found) // 2, pair.frames)
            known = stacked(found)
            self.cache.put_array(key, known)
        return known

    def _key(self) -> dict[str, Any]:
        from mimicmotion.pose.estimators.holistic.estimator import SOURCE

        c = self.config
        conventions = [c.identity_size, c.identity_colours, c.identity_mean, c.identity_std, c.identity_confidence]
        versions = [measures.VERSIONS["identity"], measures.VERSIONS["poses"], SOURCE]
        return {"kind": "identity", "versions": versions, "network": self.digest, "conventions": conventions}

    def _reference(self, pair: VideoPair) -> Embeddings | None:
        """The face vector of a sequence's reference picture; NaN without a sure face, None without a picture."""
        path = self.pictures.get(pair.sequence)
        if path is None:
            self.notes.append(f"{pair.method}, {pair.sequence}: no reference picture in {self.config.references}")
            return None
        if pair.sequence not in self.known:
            self.known[pair.sequence] = found = self._face_of(path)
            if not np.isfinite(found).all():
                self.notes.append(f"{pair.sequence}: no sure face in the reference picture")
        return self.known[pair.sequence]

    def _face_of(self, path: Path) -> Embeddings:
        assert self.faces is not None
        picture = read_picture(path)
        size = (picture.shape[0], picture.shape[1])
        (large,) = enlarged([picture], size)
        xy, confidence = next(iter(self.estimator.estimate_stream(iter([large]))))
        poses = PoseSequence(xy[None], confidence[None], (large.shape[0], large.shape[1])).scaled(size)
        return stacked(embeddings([picture], poses, self.faces, threshold=self.config.identity_confidence))


def driving_poses(folder: Path, pair: VideoPair) -> PoseSequence:
    """The true poses of a sequence from a pose file, at the frames and in the pixels that are compared.

    Raises:
        PoseError: no such file, it is malformed, or has too few frames.
    """
    from mimicmotion.pose.crop import fit_poses
    from mimicmotion.pose.files import load_poses

    poses = load_poses(folder / f"{pair.sequence}.npz").scaled(pair.real.info.size)
    index = np.arange(pair.frames)
    if pair.fps is not None and poses.fps:
        index = np.minimum(np.rint(index * poses.fps / pair.fps).astype(int), len(poses) - 1)
    if len(poses) <= index[-1]:
        got = f"{folder / pair.sequence}.npz has {len(poses)} poses"
        raise PoseError(got, f"one for each of {pair.frames} frames", "find the poses of the whole video")
    taken = PoseSequence(poses.xy[index], poses.confidence[index], poses.size, pair.fps or poses.fps, poses.source)
    return fit_poses(taken, pair.fits.real)
