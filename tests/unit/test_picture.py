"""Pictures of every mode become the same upright RGB; damaged ones a clear error."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy import ndarray
from PIL import Image, ImageCms

from mimicmotion.errors import MediaError, OutputError
from mimicmotion.video import picture
from mimicmotion.video.picture import PICTURE_FORMATS, check_picture_size, read_picture, write_picture
from mimicmotion.video.reader import open_video


@pytest.fixture
def scene() -> ndarray:
    """A picture with no symmetry."""
    y, x = np.mgrid[:40, :60]
    return np.stack([x * 4, y * 6, (x + y) * 2], -1).astype(np.uint8)


def test_plain_picture_is_unchanged(tmp_path: Path, scene: ndarray) -> None:
    write_picture(tmp_path / "a.png", scene)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), scene)
    for name in ("a.jpg", "a.webp", "a.tif", "a.bmp"):
        write_picture(tmp_path / name, scene)
        assert np.abs(read_picture(tmp_path / name).astype(int) - scene).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, scene: ndarray, orientation: int) -> None:
    """The stored picture is `scene` turned so that the tag must turn it back."""
    stored = {
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.transpose(1, 0, 2),
        6: np.rot90(scene, 1),
        7: np.rot90(scene, 2).transpose(1, 0, 2),
        8: np.rot90(scene, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), scene)


def test_alpha_is_laid_over_white(tmp_path: Path, scene: ndarray) -> None:
    alpha = np.full(scene.shape[:2], 255, np.uint8)
    alpha[:10] = 0
    alpha[10:20] = 128
    Image.fromarray(np.dstack([scene, alpha])).save(tmp_path / "rgba.png")
    got = read_picture(tmp_path / "rgba.png")
    assert (got[:10] == 255).all()
    half = scene[10:20] * (128 / 255) + 127
    assert np.abs(got[10:20] - half).max() <= 1
    np.testing.assert_array_equal(got[20:], scene[20:])
    Image.fromarray(np.dstack([scene[..., 0], alpha])).save(tmp_path / "la.png")
    grey = read_picture(tmp_path / "la.png")
    assert (grey[:10] == 255).all()
    np.testing.assert_array_equal(grey[20:], np.repeat(scene[20:, :, :1], 3, -1))


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (8, 4))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, 4, 4))
    image.save(tmp_path / "plain.png")
    got = read_picture(tmp_path / "plain.png")
    assert got[0, 0].tolist() == [0, 0, 255]
    assert got[0, 7].tolist() == [255, 0, 0]
    for name in ("a.png", "a.gif"):
        image.save(tmp_path / name, transparency=1)
        got = read_picture(tmp_path / name)
        assert got[0, 0].tolist() == [255, 255, 255]
        assert got[0, 7].tolist() == [255, 0, 0]


def test_grey_and_black_and_white(tmp_path: Path, scene: ndarray) -> None:
    Image.fromarray(scene[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png"), np.repeat(scene[..., :1], 3, -1))
    Image.fromarray(scene[..., 0] > 100).save(tmp_path / "bits.png")
    assert set(np.unique(read_picture(tmp_path / "bits.png"))) == {0, 255}


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits(tmp_path: Path, scene: ndarray, name: str, channels: int) -> None:
    deep = scene.astype(np.uint16) * 257
    stored = {
        1: deep[..., 0],
        3: deep[..., ::-1],
        4: np.dstack([deep[..., ::-1], np.full(deep.shape[:2], 65535, "u2")]),
    }
    cv2.imwrite(str(tmp_path / name), stored[channels])
    want = np.repeat(scene[..., :1], 3, -1) if channels == 1 else scene
    np.testing.assert_array_equal(read_picture(tmp_path / name), want)


def test_dark_sixteen_bit_grey_stays_dark(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "dark.png"), np.full((8, 8), 200, np.uint16))
    assert read_picture(tmp_path / "dark.png").max() == 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "1", "P", "CMYK"])
def test_large_pictures_are_converted_in_bands(
    mode: str, tmp_path: Path, scene: ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    Image.fromarray(scene).convert(mode).save(path, exif=exif)
    whole = read_picture(path)
    assert whole.shape == ((40, 60, 3) if mode == "CMYK" else (60, 40, 3))  # Pillow writes no orientation into TIFF
    largest, copied = 0, picture._band_to_rgb

    def convert(band: Image.Image) -> Image.Image:
        nonlocal largest
        largest = max(largest, band.width * band.height)
        return copied(band)

    monkeypatch.setattr(picture, "_band_to_rgb", convert)
    monkeypatch.setattr(picture, "BAND_PIXELS", 300)
    np.testing.assert_array_equal(read_picture(path), whole)
    assert 0 < largest <= 300


def test_all_frames_of_an_animation_count(tmp_path: Path, scene: ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.fromarray(np.roll(scene, i, 1)) for i in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_video(tmp_path / "a.gif").info.num_frames == 4
    monkeypatch.setenv("MIMICMOTION_MAX_ANIMATION", "7200")
    with pytest.raises(MediaError, match="9,600 pixels in the frames of an animation"):
        open_video(tmp_path / "a.gif")


def test_float_grey(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "unit.tif")
    Image.fromarray(np.full((8, 8), 128, np.float32)).save(tmp_path / "byte.tif")
    assert (read_picture(tmp_path / "unit.tif") == 128).all()
    assert (read_picture(tmp_path / "byte.tif") == 128).all()


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.tif")
    assert read_picture(tmp_path / "red.tif")[4, 4].tolist() == [255, 0, 0]
    Image.new("CMYK", (8, 8), (255, 0, 255, 0)).save(tmp_path / "green.jpg")
    got = read_picture(tmp_path / "green.jpg")[4, 4].astype(int)
    assert np.abs(got - [0, 255, 0]).max() <= 3


def test_embedded_profile_is_used(tmp_path: Path) -> None:
    """Linear light by its ICC profile: 0.2158 of the light is sRGB 128. An unusable profile is ignored."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.new("RGB", (8, 8), (10, 20, 30)).save(tmp_path / "lab.png", icc_profile=lab)
    assert read_picture(tmp_path / "lab.png")[0, 0].tolist() == [10, 20, 30]
    Image.new("RGB", (8, 8), (10, 20, 30)).save(tmp_path / "junk.png", icc_profile=b"junk")
    assert read_picture(tmp_path / "junk.png")[0, 0].tolist() == [10, 20, 30]
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    linear = _with_linear_curve(srgb)
    Image.new("RGB", (8, 8), (55, 55, 55)).save(tmp_path / "linear.png", icc_profile=linear)
    assert np.abs(read_picture(tmp_path / "linear.png")[0, 0].astype(int) - 128).max() <= 2
    Image.new("RGBA", (8, 8), (55, 55, 55, 255)).save(tmp_path / "alpha.png", icc_profile=linear)
    assert np.abs(read_picture(tmp_path / "alpha.png")[0, 0].astype(int) - 128).max() <= 2


def _with_linear_curve(profile: bytes) -> bytes:
    """The same primaries with gamma 1: every tone curve tag becomes an empty `curv`, and the name changes."""
    data = bytearray(profile)
    for i in range(struct.unpack(">I", data[128:132])[0]):
        tag, offset, _ = struct.unpack(">4sII", data[132 + 12 * i : 144 + 12 * i])
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            data[offset : offset + 12] = b"curv" + bytes(8)
            data[132 + 12 * i + 8 : 144 + 12 * i] = struct.pack(">I", 12)
    return bytes(data).replace(b"s\0R\0G\0B", b"l\0R\0G\0B").replace(b"sRGB built-in", b"lRGB built-in")


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (c, 0, 0)) for c in (250, 100, 0)]
    for name in ("a.gif", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert read_picture(tmp_path / name)[0, 0].tolist() == [250, 0, 0]


def test_eight_k_and_four_pixels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "8k.jpg"), np.zeros((4320, 7680, 3), np.uint8))
    assert read_picture(tmp_path / "8k.jpg").shape == (4320, 7680, 3)
    write_picture(tmp_path / "tiny.png", np.zeros((4, 4, 3), np.uint8))
    tiny = read_picture(tmp_path / "tiny.png")
    assert tiny.shape == (4, 4, 3)
    with pytest.raises(MediaError, match="4 x 4"):
        check_picture_size(tiny, "it")
    check_picture_size(np.zeros((64, 64, 3), np.uint8), "it")


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that only claims its size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [13_000, 30_000])
def test_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_of_size(side, side))
    with pytest.raises(MediaError, match="pixels"):
        read_picture(tmp_path / "bomb.png")


def jpeg(scene: ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.tile(scene, (4, 4, 1))).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, s: None, "does not exist"),
        (lambda p, s: p.mkdir(), "is a folder"),
        (lambda p, s: p.write_bytes(b""), "is empty"),
        (lambda p, s: p.write_text("I am not a picture"), "not a picture"),
        (lambda p, s: p.write_bytes(jpeg(s)[:900]), "damaged or truncated"),
        (lambda p, s: p.write_bytes(jpeg(s)[:20]), "not a picture|damaged"),
        (lambda p, s: p.write_bytes(png_of_size(100, 100)), "damaged or truncated"),
    ],
)
def test_bad_pictures(tmp_path: Path, scene: ndarray, make: Callable[[Path, ndarray], None], message: str) -> None:
    path = tmp_path / "bad.png"
    make(path, scene)
    with pytest.raises(MediaError, match=message) as e:
        read_picture(path)
    assert "bad.png" in str(e.value)
    assert e.value.fix


def test_heic_without_pillow_heif(
    shared: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg reads single pictures; for tiles, the error names the package that assembles them."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("PIL.Image.open", _no_heif(Image.open))
    path = shared("cases/picture.heic")
    assert read_picture(path).shape == (128, 96, 3)
    monkeypatch.setattr("mimicmotion.video.sources.is_heif", lambda _: True)
    tiles = tmp_path / "tiles.mp4"
    with av.open(str(tiles), "w") as container:
        streams = [container.add_stream("libx264", rate=1) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for stream in streams:
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
            container.mux(stream.encode())
    with pytest.raises(MediaError, match=r"of 2 pictures or tiles(?s:.*)\[heic\]"):
        open_video(tiles)


def _no_heif(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Pillow without the plugin, even if other tests have loaded it."""
    return lambda *args, **options: plain(*args, **options | {"formats": PICTURE_FORMATS})


def test_heic_by_pillow_heif(shared: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pillow_heif")
    monkeypatch.setattr("mimicmotion.video.picture.AvSource", None)  # it is not asked
    assert read_picture(shared("cases/picture.heic")).shape == (128, 96, 3)


def test_heic(shared: Callable[[str], Path]) -> None:
    assert read_picture(shared("cases/picture.heic")).shape == (128, 96, 3)


def test_write_errors(tmp_path: Path, scene: ndarray) -> None:
    with pytest.raises(OutputError, match=r"\.xyz"):
        write_picture(tmp_path / "a.xyz", scene)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        write_picture(tmp_path / "file" / "a.png", scene)
    write_picture(tmp_path / "new" / "a.png", scene)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]
