"""Encoding and decoding the frames of a record: single pictures (png, jpeg), or a video with random access."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import get_args

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion.arrays import Frame, Frames
from mimicmotion.data.shards.index import REMAKE, Store
from mimicmotion.errors import ConfigError, InputError, MediaError, OutputError

# At most this many frames are decoded to reach one frame of a video.
_GOP = 16
_CRF = 16  # as in the video writer: visually lossless
_JPEG_QUALITY = 95
# zlib's level 6 makes synthetic frames 16% smaller, but takes 2.6 times as long
_PNG_LEVEL = 1


def check_store(store: str, size: tuple[int, int]) -> None:
    """Raise ConfigError for an unknown store, or a size that it cannot hold."""
    if store not in get_args(Store):
        raise ConfigError(f"store={store!r}", ", ".join(get_args(Store)), "correct 'store'")
    if store == "video" and (size[0] % 2 or size[1] % 2):
        raise ConfigError(f"frames of {size[0]}x{size[1]} as video", "even height and width", "change the size")


def compress_frames(
    frames: Iterable[Frame], store: str, size: tuple[int, int], fps: float, count: int
) -> dict[str, bytes]:
    """Encode frames as members of a record, and return their bytes by file suffix. Equal pixels give equal bytes.

    Args:
        frames: RGB frames, which are streamed.
        store: see `Store`.
        size: (height, width) of every frame.
        fps: frames per second of the video.
        count: expected number of frames.

    Raises:
        InputError: the number of frames, or the size of one, is not as expected.
        OutputError: the encoder fails.
    """

    def checked() -> Iterator[Frame]:
        done = 0
        for done, frame in enumerate(frames, 1):
            if frame.shape != (*size, 3) or frame.dtype != np.uint8:
                got = f"frame {done - 1} is {frame.dtype} {frame.shape}"
                raise InputError(got, f"uint8 ({size[0]}, {size[1]}, 3)", "pass RGB frames of one size")
            yield frame
        if done != count:  # a video that decodes differently the second time
            raise InputError(f"{done} frames", f"{count}, one per pose", "check the video, then run prepare again")

    if store == "video":
        return {"mp4": _encode_video(checked(), size, fps)}
    ending = "jpg" if store == "jpeg" else "png"
    options = {"quality": _JPEG_QUALITY, "subsampling": 0} if store == "jpeg" else {"compress_level": _PNG_LEVEL}
    return {f"{i:05d}.{ending}": encode_picture(f, store, **options) for i, f in enumerate(checked())}


def decode_pictures(data: Sequence[bytes], size: tuple[int, int], what: Callable[[int], str]) -> Frames:
    """Decode single pictures; `what` returns the name of the n-th one for errors.

    Raises:
        MediaError: a picture is damaged or has the wrong size.
    """
    import cv2

    out = np.empty((len(data), *size, 3), np.uint8)
    for i, picture in enumerate(data):
        found = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) if picture else None
        if found is None or found.shape != out.shape[1:]:
            got = "is damaged" if found is None else f"is {found.shape[0]}x{found.shape[1]}"
            raise MediaError(f"{what(i)} {got}", f"a picture of {size[0]}x{size[1]}", REMAKE)
        cv2.cvtColor(found, cv2.COLOR_BGR2RGB, dst=out[i])
    return out


def decode_video(data: bytes, indices: Sequence[int], size: tuple[int, int], fps: float, what: str) -> Frames:
    """Decode frames of a video by index, in any order; each group of 16 is decoded at most once.

    Raises:
        MediaError: the video is damaged, too short or of the wrong size; `what` names it in the message.
    """
    import av

    from mimicmotion.video.timing import exact_rate

    out = np.empty((len(indices), *size, 3), np.uint8)
    positions: dict[int, list[int]] = {}
    for position, index in enumerate(indices):
        positions.setdefault(int(index), []).append(position)
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            stream.thread_count = 1  # there are many reader processes; threads in each would only slow them down
            rate = exact_rate(fps)
            seconds = stream.time_base or 1 / rate  # per tick
            todo, group = sorted(positions), -1
            frames = container.decode(stream)
            while todo:
                if todo[0] // _GOP != group:  # seek to the key frame of the next group
                    group = todo[0] // _GOP
                    container.seek(round(group * _GOP / (rate * seconds)), stream=stream, backward=True)
                    frames = container.decode(stream)
                frame = next(frames, None)
                index = math.inf if frame is None or frame.pts is None else round(frame.pts * seconds * rate)
                if frame is None or index > todo[0]:
                    raise MediaError(f"{what} has no frame {todo[0]}", "all of its frames", REMAKE)
                if index < todo[0]:
                    continue
                if (frame.height, frame.width) != tuple(size):
                    got = f"{what} is {frame.height}x{frame.width}"
                    raise MediaError(got, f"{size[0]}x{size[1]}", REMAKE)
                out[positions[todo.pop(0)]] = frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, IndexError) as e:
        raise MediaError(f"{what} is damaged ({e})", "a complete video", REMAKE) from e
    return out


def encode_picture(picture: UInt8[ndarray, "height width 3"], kind: str, **options: int) -> bytes:
    """Encode a picture.

    Args:
        picture: RGB picture.
        kind: png or jpeg.
        options: options of Pillow's encoder.
    """
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def _encode_video(frames: Iterable[Frame], size: tuple[int, int], fps: float) -> bytes:
    import av
    from av.video.frame import VideoFrame

    from mimicmotion.video.timing import exact_rate
    from mimicmotion.video.writer import add_stream, to_yuv

    file, rate = io.BytesIO(), exact_rate(fps)
    try:
        with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            stream = add_stream(container, "mov", size, rate, _CRF)
            # A key frame exactly every 16 frames, and no B-frames: frame i is packet i.
            stream.codec_context.gop_size, stream.codec_context.thread_count = _GOP, 1
            stream.codec_context.max_b_frames = 0
            x264 = f"mbtree=0:keyint={_GOP}:min-keyint={_GOP}:scenecut=0:bframes=0:open-gop=0"
            stream.options |= {"x264-params": x264}
            for i, rgb in enumerate(map(np.ascontiguousarray, frames)):
                frame = to_yuv(VideoFrame.from_ndarray(rgb, format="rgb24"))
                frame.pts, frame.time_base = i, 1 / rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except av.error.FFmpegError as e:
        raise OutputError(f"frames cannot be encoded ({e})", "an FFmpeg with libx264", "use store 'jpeg'") from e
    return file.getvalue()
