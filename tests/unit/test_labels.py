"""Labels of results: in the metadata of every kind of file, visible, and signed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimicmotion.errors import ConfigError, MediaError
from mimicmotion.video import labels
from mimicmotion.video.labels import Label, check_signing, draw, read, signature
from mimicmotion.video.reader import open_video
from mimicmotion.video.writer import open_writer

NAME = "né <&\"'> 生成"
PLAIN = Label(NAME, "0123")
SIZE = (48, 64)
FRAMES = [np.roll(np.arange(48 * 64 * 3, dtype=np.uint8).reshape(*SIZE, 3), 41 * i, 0) for i in range(3)]
KINDS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".gif", ".webp", "")
SIGNED = (".mp4", ".mov", ".m4v", ".gif", ".webp")


def write(path: Path, label: Label | None, frames: list[np.ndarray] = FRAMES) -> Path:
    with open_writer(path, SIZE, 15, label=label) as writer:
        for frame in frames:
            writer.write(frame)
    return path if path.suffix else path / "frame_000000.png"


@pytest.mark.parametrize("suffix", KINDS)
def test_every_kind_of_file_says_how_it_was_made(suffix: str, tmp_path: Path) -> None:
    file = write(tmp_path / f"a{suffix}", PLAIN)
    assert list(read(file)) == ["Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator",
                                "PropagateID", "ReservedCode2"]  # fmt: skip
    assert (read(file)["Label"], read(file)["ContentProducer"], read(file)["ProduceID"]) == ("1", NAME, "0123")
    assert file.read_bytes() == write(tmp_path / f"b{suffix}", PLAIN).read_bytes()
    assert read(write(tmp_path / f"c{suffix}", None)) == {}


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("count", [1, 3])
def test_the_frames_stay_as_they_are(suffix: str, count: int, tmp_path: Path) -> None:
    for name, label in (("a", PLAIN), ("b", None)):
        write(tmp_path / f"{name}{suffix}", label, FRAMES[:count])
    a, b = (list(open_video(tmp_path / f"{name}{suffix}").frames()) for name in "ab")
    assert len(a) == count
    assert np.array_equal(a, b)


def test_pictures_name_their_source_as_iptc_does(tmp_path: Path) -> None:
    for suffix in (".webp", ""):
        with Image.open(write(tmp_path / f"a{suffix}", PLAIN)) as picture:
            xmp = picture.info.get("xmp") or picture.info["XML:com.adobe.xmp"].encode()
        assert b"digitalsourcetype/trainedAlgorithmicMedia" in xmp


@pytest.mark.parametrize("text", ["", "not JSON", "[1]"])
def test_malformed_labels_say_nothing(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Label, "aigc", text)
    assert read(write(tmp_path / "a.gif", PLAIN)) == {}


def test_files_that_are_no_media_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("text")
    for name in ("empty.mp4", "text.mp4", "missing.mp4"):
        with pytest.raises(MediaError):
            read(tmp_path / name)


@pytest.mark.parametrize("size", [(224, 128), (1024, 576), (576, 1024), (512, 512)])
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_the_visible_label_is_large_and_has_contrast(size: tuple[int, int], grey: int) -> None:
    frame = np.full((*size, 3), grey, np.uint8)
    shown = draw(frame)
    assert (frame == grey).all()
    white = (shown > 165).all(-1)  # half-way between letters and the lightest strip
    strip = (shown != grey).any(-1)
    rows, columns = (np.flatnonzero((white & strip).any(axis)) for axis in (1, 0))
    # the row of letters without what reaches above and below is as high as its smallest letters
    smallest = (np.ptp(rows) + 1) * labels.SMALLEST_LETTER / 133
    assert smallest >= labels.LETTERS * min(size) - 1  # to whole pixels
    assert np.ptp(columns) < size[1]
    linear = (0.3 * grey / 255) ** 2.2
    assert 1.05 / (linear + 0.05) > 7  # the contrast that WCAG's strictest level asks for
    assert (shown[: size[0] // 2] == grey).all()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("c2pa")
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("suffix", SIGNED)
def test_a_signed_file_shows_any_later_change(suffix: str, tmp_path: Path, cache: Path) -> None:
    file = write(tmp_path / f"a{suffix}", Label(NAME, "0123", sign=True))
    assert signature(file) == ("valid", "MimicMotion, self-made")
    assert read(file)["ContentProducer"] == NAME
    assert len(list(open_video(file).frames())) == len(FRAMES)
    plain = write(tmp_path / f"b{suffix}", PLAIN)
    assert signature(plain) == ("none", "")
    data = bytearray(file.read_bytes())
    pixels = {".gif": b"NETSCAPE", ".webp": b"VP8L"}.get(suffix, b"mdat")
    data[data.index(pixels) + 60] ^= 1
    file.write_bytes(data)
    assert signature(file)[0] == "changed"
    assert {p.name for p in tmp_path.iterdir()} == {f"a{suffix}", f"b{suffix}", "cache"}


def test_the_own_key_is_made_once_and_read_by_its_owner_alone(tmp_path: Path, cache: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.mp4", Label(NAME, "0123", sign=True))
    (key,) = cache.iterdir()
    assert key.stat().st_mode & 0o777 == 0o600
    copy = tmp_path / "signer.pem"
    copy.write_bytes(key.read_bytes())
    file = write(tmp_path / "c.mp4", Label(NAME, "0123", sign=True, signer=copy))
    assert signature(file)[0] == "valid"


def test_what_cannot_be_signed_is_refused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "signer.pem").write_text("no key")
    with pytest.raises(ConfigError, match="webm"):
        check_signing("webm", None)
    with pytest.raises(ConfigError, match="signer"):
        check_signing("mov", tmp_path / "signer.pem")
    monkeypatch.setitem(__import__("sys").modules, "c2pa", None)
    with pytest.raises(ConfigError, match=r"pip install .*\[c2pa\]"):
        check_signing("mov", None)
    assert signature(write(tmp_path / "a.mp4", PLAIN))[0] == "unknown"
