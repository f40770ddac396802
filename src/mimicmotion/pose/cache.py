"""Poses kept on disk, found again by the content of the video and the settings of the estimator."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mimicmotion.errors import OutputError, PoseError
from mimicmotion.pose.files import VERSION, load_poses, save_poses
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.files import sha256_file
from mimicmotion.weights.registry import cache_folder

logger = logging.getLogger(__name__)


class PoseCache:
    """A folder of pose files named by what they were made from.

    Args:
        folder: where the files live; default `cache_folder() / "poses"`. It is made when first needed.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = Path(folder) if folder is not None else cache_folder() / "poses"

    def path(self, video: Path | str, settings: Mapping[str, Any]) -> Path:
        """Where the poses of this video with these settings are or would be.

        Args:
            video: its content counts, not its name.
            settings: all that changes the result: estimator, its version, model checksums, person, frame rate. Plain
                data; paths of models should be given as checksums.
        """
        facts = {"video": sha256_file(video), "settings": dict(settings), "format": VERSION}
        text = json.dumps(facts, sort_keys=True, default=str)
        name = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.npz"

    def get(self, video: Path | str, settings: Mapping[str, Any], estimate: Callable[[], PoseSequence]) -> PoseSequence:
        """The stored poses, or those that `estimate` gives, which are then stored.

        A damaged entry is made anew; a cache that cannot be written is only warned of.

        Raises:
            InputError: the video cannot be read.
        """
        path = self.path(video, settings)
        poses = self.load(path)
        if poses is None:
            poses = estimate()
            self.put(path, poses)
        return poses

    def load(self, path: Path) -> PoseSequence | None:
        """The poses under a path that `path()` gave; None where there are none or they are damaged."""
        if not path.exists():
            return None
        try:
            return load_poses(path)
        except PoseError as e:
            logger.warning("the cached poses %s are damaged and made anew: %s", path, e.got)
            return None

    def put(self, path: Path, poses: PoseSequence) -> None:
        """Store `poses` under a path that `path()` gave."""
        try:
            save_poses(poses, path)
        except OutputError as e:
            logger.warning("the poses cannot be cached: %s", e.got)
