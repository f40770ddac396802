"""Make docs/images/demo.gif from the demo's result: python scripts/demo_gif.py out/demo-side-by-side.mp4 [-o FILE]."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from mimicmotion.video.reader import open_video

HEIGHT, EVERY = 208, 2  # pixels; keep every n-th frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path, help="what `mimicmotion demo` wrote side by side")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images/demo.gif"))
    options = parser.parse_args()
    reader = open_video(options.video)
    pictures = [Image.fromarray(frame) for frame in reader][::EVERY]
    width = round(pictures[0].width * HEIGHT / pictures[0].height)
    small = [p.resize((width, HEIGHT), Image.Resampling.LANCZOS).quantize(160) for p in pictures]
    pause = round(1000 * EVERY / (reader.info.fps or 15))
    small[0].save(options.output, save_all=True, append_images=small[1:], duration=pause, loop=0, optimize=True)


if __name__ == "__main__":
    main()
