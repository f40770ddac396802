"""Written files: complete or absent, right in size, rate, length and colour, and the same bytes each time."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy import ndarray

from mimicmotion.errors import ConfigError, OutputError
from mimicmotion.runtime import files
from mimicmotion.video.picture import side_by_side
from mimicmotion.video.reader import open_video
from mimicmotion.video.writer import FrameWriter, check_output, open_writer, plan_output

KINDS = ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif", "a.webp", "frames/"]


def make_frame(i: int, height: int = 64, width: int = 80) -> ndarray:
    frame = np.empty((height, width, 3), np.uint8)
    frame[:] = (200, 40, 90)
    frame[8:24, 4 * i % (width - 16) : 4 * i % (width - 16) + 16] = (20, 200, 250)
    return frame


def write(
    path: Path | str,
    num: int = 12,
    fps: float = 15,
    size: tuple[int, int] = (64, 80),
    error: BaseException | None = None,
    **options: object,
) -> None:
    with open_writer(path, size, fps, **options) as writer:  # type: ignore[arg-type]
        for i in range(num):
            writer.write(make_frame(i, *size))
        if error is not None:
            raise error


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("name", KINDS)
def test_what_is_written_reads_back(tmp_path: Path, name: str) -> None:
    path = f"{tmp_path}/{name}"
    write(path)
    video = open_video(path)
    frames = list(video.frames())
    assert len(frames) == 12
    assert video.info.size == (64, 80)
    assert video.info.fps == pytest.approx(15, rel=0.01)
    assert video.info.duration == pytest.approx(0.8, abs=0.011)
    for i in (0, 5, 11):  # in order, and right in colour: BT.601 for BT.709 would be off by 10 and more
        difference = np.abs(frames[i].astype(int) - make_frame(i))
        assert np.median(difference) <= 2
        assert difference.mean() < 4
    assert leftovers(tmp_path) == [name.rstrip("/")]


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.webp"])
def test_same_frames_same_bytes(tmp_path: Path, name: str) -> None:
    for folder in ("one", "two"):
        write(tmp_path / folder / name)  # the parent folder is created
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_mp4_is_what_players_and_browsers_want(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", fps=29.97, size=(63, 81))
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width) == (64, 82)
        assert stream.average_rate == Fraction(30000, 1001)
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_odd_sizes_repeat_the_last_row_and_column(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", num=2, size=(63, 79), crf=1)
    frame = next(iter(open_video(tmp_path / "a.mp4")))
    assert frame.shape == (64, 80, 3)
    assert np.abs(frame[:, -1].astype(int) - frame[:, -2])[30:].max() <= 6
    assert np.abs(frame[-1].astype(int) - frame[-2]).max() <= 6


def test_gif_lasts_as_long_as_it_should(tmp_path: Path) -> None:
    """15 fps is no whole number of hundredths of a second: 6 and 7 must alternate."""
    write(tmp_path / "a.gif", num=30)
    assert open_video(tmp_path / "a.gif").info.duration == pytest.approx(2.0, abs=0.011)


def test_lower_crf_gives_a_better_picture(tmp_path: Path) -> None:
    write(tmp_path / "good.mp4", crf=5)
    write(tmp_path / "bad.mp4", crf=45)
    assert (tmp_path / "good.mp4").stat().st_size > (tmp_path / "bad.mp4").stat().st_size


# -- nothing half-written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, FileNotFoundError])
def test_an_error_in_the_middle_leaves_nothing_and_passes(tmp_path: Path, name: str, error: type) -> None:
    with pytest.raises(error):
        write(f"{tmp_path}/{name}", num=5, error=error("stop"))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", KINDS)
def test_an_old_result_stays_until_the_new_one_is_complete(tmp_path: Path, name: str) -> None:
    path = f"{tmp_path}/{name}"
    write(path, num=3)
    with pytest.raises(KeyboardInterrupt):
        write(path, num=1, error=KeyboardInterrupt())
    assert len(list(open_video(path).frames())) == 3
    with open_writer(path, (64, 80), 15) as writer:
        writer.write(make_frame(0))
        assert len(list(open_video(path).frames())) == 3
    write(path, num=5)
    assert len(list(open_video(path).frames())) == 5
    assert leftovers(tmp_path) == [name.rstrip("/")]


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """The largest size a file may grow to: what a full disk looks like, without filling one.

    No longer than needed: it is the test report's limit, too.
    """
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.whole
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif", "a.webp"])
def test_full_disk_gives_the_whole_file_or_none(tmp_path: Path, name: str) -> None:
    """Also where the last buffered bytes are the ones that do not fit."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 48, 3), dtype=np.uint8) for _ in range(4)]

    def make() -> None:
        with open_writer(tmp_path / name, (48, 48), 15) as writer:
            for frame in noise:
                writer.write(frame)

    make()
    whole = (tmp_path / name).stat().st_size
    (tmp_path / name).unlink()
    for limit in [0, 10, 500, *np.linspace(whole // 2, whole - 1, 4).astype(int).tolist(), whole - 2]:
        with file_limit(limit), pytest.raises(OutputError, match="cannot be written"):
            make()
        assert leftovers(tmp_path) == [], limit
    with file_limit(whole):
        make()
    assert (tmp_path / name).stat().st_size == whole


def test_full_disk_while_writing_frames_to_a_folder(tmp_path: Path) -> None:
    with file_limit(50), pytest.raises(OutputError):
        write(f"{tmp_path}/frames/")
    assert leftovers(tmp_path) == []


def test_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mimicmotion.video.writer.to_yuv", full)
    with pytest.raises(OutputError, match="No space left.*\n.*\n.*free some space"):
        write(tmp_path / "a.mkv")
    assert leftovers(tmp_path) == []


def test_no_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no frame"), open_writer(tmp_path / "a.mp4", (64, 80), 15):
        pass
    assert leftovers(tmp_path) == []


# -- bad places and settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [check_output, files.check_writable, write])
def test_a_file_in_the_place_of_a_folder(tmp_path: Path, check: object) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="a folder in this path is a file"):
        check(tmp_path / "file" / "deep" / "a.mp4")  # type: ignore[operator]
    assert leftovers(tmp_path) == ["file"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc takes no files, not even from root")
def test_a_folder_that_takes_no_files() -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        check_output("/proc/a.mp4")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission"):
            check_output(tmp_path / "a.mp4")
    finally:
        tmp_path.chmod(0o700)


def test_checking_creates_nothing(tmp_path: Path) -> None:
    assert check_output(tmp_path / "new" / "deep" / "a.mp4") == tmp_path / "new" / "deep" / "a.mp4"
    assert leftovers(tmp_path) == []


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for attempt in (check_output, write):
        with pytest.raises(OutputError, match="thesis.txt"):
            attempt(f"{tmp_path}/mine/")
    (tmp_path / "dir.mp4").mkdir()
    for attempt in (check_output, write):
        with pytest.raises(OutputError, match="folder"):
            attempt(tmp_path / "dir.mp4")
    (tmp_path / "mine" / "thesis").write_text("x")
    for attempt in (check_output, write):
        with pytest.raises(OutputError, match="is a file"):
            attempt(f"{tmp_path}/mine/thesis/")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.avi"):
        plan_output("a.avi")
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="fps"):
            write(tmp_path / "a.mp4", fps=fps)
    with pytest.raises(ConfigError, match="uint8"), open_writer(tmp_path / "a.mp4", (64, 80), 15) as writer:
        writer.write(make_frame(0, 64, 82))
    with pytest.raises(ConfigError, match="float32"), open_writer(tmp_path / "a.mp4", (64, 80), 15) as writer:
        writer.write(make_frame(0).astype(np.float32))
    assert leftovers(tmp_path) == []


def test_file_mode_follows_the_umask(tmp_path: Path) -> None:
    """A temporary file made the usual way would leave the result unreadable for others."""
    write(tmp_path / "a.mp4", num=1)
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "a.mp4").stat().st_mode == (tmp_path / "plain").stat().st_mode


# -- sound ------------------------------------------------------------------------------------------------------------


def with_sound(path: Path, codec: str, seconds: float = 2.0) -> Path:
    """A 10 fps video with a tone that begins at 0.5 s."""
    rate = 48000
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio = container.add_stream(codec, rate=rate, layout="mono")
        for i in range(int(seconds * 10)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 5 * i, np.uint8))
            container.mux(video.encode(frame))
        container.mux(video.encode())
        tone = np.sin(np.arange(int(seconds * rate)) * 0.1) * 0.5
        tone[: rate // 2] = 0
        fmt = audio.codec_context.format.name
        for i in range(0, len(tone), 1024):
            part = tone[i : i + 1024]
            data = (part * 32767).astype(np.int16) if fmt == "s16" else part.astype(np.float32)
            sound = av.AudioFrame.from_ndarray(data[None], format=fmt, layout="mono")
            sound.rate, sound.pts, sound.time_base = rate, i, Fraction(1, rate)
            container.mux(audio.encode(sound))
        container.mux(audio.encode())
    return path


def sound_of(path: Path) -> tuple[float, float, str]:
    """(seconds, second at which the tone begins, codec)."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        name = stream.codec_context.name
        parts, begin = [], None
        for frame in container.decode(stream):
            begin = frame.time if begin is None else begin
            data = frame.to_ndarray().astype(float)
            parts.append(
                data.mean(0) if frame.format.is_planar else data.reshape(-1, stream.codec_context.channels)[:, 0]
            )
        samples = np.abs(np.concatenate(parts))
        rate = stream.codec_context.sample_rate
        loud = np.flatnonzero(samples > 0.3 * samples.max())[0]
        return len(samples) / rate, float(begin or 0) + loud / rate, name


@pytest.mark.parametrize(
    ("source", "codec", "result", "kept"),
    [
        ("s.mp4", "aac", "a.mp4", "aac"),
        ("s.mkv", "pcm_s16le", "a.mp4", "aac"),
        ("s.mp4", "aac", "a.webm", "opus"),
        ("s.mp4", "aac", "a.mkv", "aac"),
    ],
)
def test_sound_is_copied_and_cut(tmp_path: Path, source: str, codec: str, result: str, kept: str) -> None:
    driving = with_sound(tmp_path / source, codec)
    write(tmp_path / result, num=15, fps=15, audio_from=driving)
    seconds, tone, name = sound_of(tmp_path / result)
    assert name == kept
    assert seconds == pytest.approx(1.0, abs=0.06)
    assert tone == pytest.approx(0.5, abs=0.06)
    write(tmp_path / result, num=15, fps=15, audio_from=driving, audio_start=0.25)
    assert sound_of(tmp_path / result)[1] == pytest.approx(0.25, abs=0.06)
    assert len(list(open_video(tmp_path / result).frames())) == 15


def beeps(path: Path, codec: str, rate: int, stretches: list[tuple[float, float, float]], seconds: float = 3.0) -> Path:
    """A 10 fps video with stretches of sound, (begin, end, second of a beep of 0.1 s): between them there is none."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio = container.add_stream(codec, rate=rate, layout="mono")
        for i in range(int(seconds * 10)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 5 * i, np.uint8))))
        container.mux(video.encode())
        fmt = audio.codec_context.format.name
        for begin, end, beep in stretches:
            time = np.arange(round(begin * rate), round(end * rate)) / rate
            tone = np.where((time >= beep) & (time < beep + 0.1), 0.5 * np.sin(2 * np.pi * 1000 * time), 0)
            for i in range(0, len(tone) - 1023, 1024):
                data = tone[i : i + 1024]
                data = (data * 32767).astype(np.int16) if fmt == "s16" else data.astype(np.float32)
                sound = av.AudioFrame.from_ndarray(data[None], format=fmt, layout="mono")
                sound.rate, sound.pts, sound.time_base = rate, round(begin * rate) + i, Fraction(1, rate)
                container.mux(audio.encode(sound))
        container.mux(audio.encode())
    return path


def heard(path: Path) -> tuple[float, float, list[float]]:
    """Where the sound begins and ends by its time stamps, and where beeps begin, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        spans, loud = [], []
        for frame in container.decode(stream):
            data = frame.to_ndarray().astype(float)
            data = data if frame.format.is_planar else data.reshape(-1, stream.codec_context.channels).T
            data = np.abs(data).max(0) / (32768 if frame.format.name.startswith("s16") else 1)
            spans.append((float(frame.time), float(frame.time) + frame.samples / frame.sample_rate))
            loud += (frame.time + np.flatnonzero(data > 0.2) / frame.sample_rate).tolist()
    begins = [t for before, t in zip([-9.0, *loud], loud, strict=False) if t - before > 0.3]
    return spans[0][0], spans[-1][1], begins


FRAME = 0.044  # of a 60 fps driver and its sound nobody sees less: two frames of AAC


@pytest.mark.parametrize(
    "result", ["a.mp4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("a.webm", "a.mkv"))]
)
@pytest.mark.parametrize(
    ("source", "codec", "rate", "stretches"),
    [
        ("s.mkv", "pcm_s16le", 48000, [(0.0, 0.5, 9.0), (1.2, 2.8, 1.5)]),  # a gap
        ("s.mp4", "aac", 48000, [(0.0, 0.5, 9.0), (1.2, 2.8, 1.5)]),
        ("s.mkv", "pcm_s16le", 44100, [(0.7, 2.8, 1.5)]),  # begins late
        ("s.mp4", "aac", 44100, [(0.7, 2.8, 1.5)]),
        ("s.mkv", "pcm_s16le", 37800, [(0.0, 2.8, 1.5)]),  # a rate that AAC does not know
        ("s.mkv", "pcm_s16le", 192000, [(0.0, 0.4, 0.2), (0.6, 1.1, 0.8), (1.3, 2.8, 1.5)]),
    ],
)
def test_sound_stays_where_it_was(
    tmp_path: Path, source: str, codec: str, rate: int, stretches: list[tuple[float, float, float]], result: str
) -> None:
    driving = beeps(tmp_path / source, codec, rate, stretches)
    wanted = [beep for *_, beep in stretches if beep < 3]
    assert heard(driving)[2] == pytest.approx(wanted, abs=FRAME)
    write(tmp_path / result, num=30, fps=15, audio_from=driving)
    begin, end, beeping = heard(tmp_path / result)
    assert beeping == pytest.approx(wanted, abs=FRAME)
    with av.open(str(tmp_path / result)) as container:
        copied = container.streams.audio[0].codec_context.name == codec
    assert end == pytest.approx(2.0, abs=1024 / 44100 + 0.001)
    assert copied or begin == pytest.approx(0.0, abs=1024 / 44100 + 0.001)
    write(tmp_path / result, num=15, fps=15, audio_from=driving, audio_start=1.0)
    assert heard(tmp_path / result)[2] == pytest.approx([0.5], abs=FRAME)


def test_sound_that_ends_before_the_picture_is_silent_then(tmp_path: Path) -> None:
    driving = beeps(tmp_path / "s.mkv", "pcm_s16le", 48000, [(0.0, 0.8, 0.3)])
    write(tmp_path / "a.mp4", num=31, fps=15, audio_from=driving)
    _, end, beeping = heard(tmp_path / "a.mp4")
    assert beeping == pytest.approx([0.3], abs=FRAME)
    assert end == pytest.approx(31 / 15, abs=1024 / 48000 + 0.001)


def test_sound_from_a_source_without_any(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "silent.mp4")
    write(tmp_path / "a.mp4", audio_from=tmp_path / "silent.mp4")
    write(tmp_path / "b.mp4", audio_from=tmp_path)  # a folder of pictures
    (tmp_path / "text").write_text("no media")
    write(tmp_path / "c.mp4", audio_from=tmp_path / "text")
    assert "cannot be used" in caplog.text
    write(tmp_path / "d.gif", audio_from=tmp_path / "silent.mp4")
    assert "has no sound" in caplog.text
    assert not open_video(tmp_path / "a.mp4").info.has_audio


# -- composing --------------------------------------------------------------------------------------------------------


def test_side_by_side_has_equal_heights_and_even_size() -> None:
    row = side_by_side([make_frame(0, 100, 50), make_frame(0, 50, 41), make_frame(0, 200, 80)], height=50, gap=3)
    assert row.shape == (50, 25 + 3 + 41 + 3 + 20, 3)
    assert (row[:, 25:28] == 255).all()
    np.testing.assert_array_equal(row[:, 28:69], make_frame(0, 50, 41))
    assert side_by_side([make_frame(0, 101, 51)] * 2, height=101).shape == (102, 106, 3)


def test_the_writer_is_of_the_declared_class(tmp_path: Path) -> None:
    with open_writer(tmp_path / "a.mp4", (64, 80), 15) as writer:
        assert isinstance(writer, FrameWriter)
        writer.write(make_frame(0))
        assert writer.count == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fills fresh memory by glibc's mallopt")
def test_bytes_do_not_depend_on_what_lay_in_memory(tmp_path: Path) -> None:
    libc = ctypes.CDLL("libc.so.6")
    rng = np.random.default_rng(0)
    frames = np.repeat(np.repeat(rng.integers(0, 256, (9, 12, 8, 3), dtype=np.uint8), 8, 1), 8, 2)
    found = set()
    for pattern in (0, 1, 0x55, 0xAA):
        libc.mallopt(-6, pattern)  # M_PERTURB
        try:
            with open_writer(tmp_path / "a.mp4", (96, 64), 15) as writer:
                for frame in frames:
                    writer.write(frame)
        finally:
            libc.mallopt(-6, 0)
        found.add((tmp_path / "a.mp4").read_bytes())
    assert len(found) == 1
