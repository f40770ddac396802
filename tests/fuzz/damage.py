"""Damage files in ways that reach deep into their parsers; seeded, so that every case can be reproduced."""

from __future__ import annotations

import io
import random
import re
import struct
import tarfile
import zipfile
from pathlib import Path

INTEGERS = (0, 1, 7, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x00FFFFFF)
TEXTS = (
    *("nan", "NaN", "-Infinity", "1e999", "-1", "0", "1e-9", "null", "true", "[]", "{}", "[[]]", '""', '"x"'),
    *(
        "9" * 400,
        "9" * 5000,
        "[" * 3000,
        '{"a":' * 3000,
        '"' + "x" * 100_000 + '"',
        '"../../../etc/passwd"',
        '"\\ud800"',
    ),
    *("1.5", '{"a": 1}', "[1, 2]", '"\\u0000"', "&a [*a]", "!!python/object:os.system", "0x10", "1e5"),
)
TEXT_SUFFIXES = (".json", ".yaml", ".csv")


def damaged(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """Bytes of a damaged file. Archives are often repacked, so that their contents are read."""
    if not data:
        return foreign(data, rng)
    ways = [flipped, flipped, overwritten, cut]
    if suffix in TEXT_SUFFIXES:
        ways = [*ways, *[token_replaced] * 6]
    if suffix == ".safetensors":
        ways = [*ways, *[header_changed] * 4]
    if suffix in (".npz", ".pth", ".pt"):
        ways = [*ways, *[repacked_zip] * 4]
    if suffix == ".tar":
        ways = [*ways, *[repacked_tar] * 4]
    if suffix in (".mp4", ".mov", ".heic", ".avif"):
        ways = [*ways, *[atom_changed] * 3]
    return rng.choice([empty, foreign])(data, rng) if rng.random() < 0.03 else rng.choice(ways)(data, rng)


def empty(data: bytes, rng: random.Random) -> bytes:
    return b""


def foreign(data: bytes, rng: random.Random) -> bytes:
    """Something else under the file's name."""
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 60_000, 60_000)
    return rng.choice(
        (b"\0" * 5000, b"<!DOCTYPE html><p>404", b"#EXTM3U\n/etc/passwd\n", b"\x1b[2J" * 500, png, b"PK\3\4")
    )


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Flip some bits, half of the time in the header, which contains sizes."""
    out = bytearray(data)
    head = min(len(out), 400) if rng.random() < 0.5 else len(out)
    for _ in range(rng.choice((1, 3, 20, 200))):
        out[rng.randrange(head)] ^= 1 << rng.randrange(8)
    return bytes(out)


def overwritten(data: bytes, rng: random.Random) -> bytes:
    """Overwrite something with extreme numbers of two, four or eight bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3))):
        value, form = rng.choice(INTEGERS), rng.choice((">I", "<I", ">Q", "<Q", "<H", ">H"))
        packed = struct.pack(form, value & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
        place = rng.randrange(min(len(out), 600) if rng.random() < 0.6 else len(out))
        out[place : place + len(packed)] = packed
    return bytes(out)


def cut(data: bytes, rng: random.Random) -> bytes:
    """Remove the end or a middle part, or repeat a part."""
    start, size = rng.randrange(len(data)), rng.choice((1, 16, 500, len(data)))
    return rng.choice((data[:start] + data[start + size :], data[: start + size] + data[start:]))


def token_replaced(data: bytes, rng: random.Random) -> bytes:
    """Replace a value or a key of a text by nonsense."""
    text = data.decode("utf-8", "replace")
    tokens = list(re.finditer(r'"[^"]*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\btrue\b|\bfalse\b|\bnull\b|[\w./-]+', text))
    for found in sorted(rng.sample(tokens, min(len(tokens), rng.choice((1, 1, 2)))), key=lambda t: -t.start()):
        text = text[: found.start()] + rng.choice(TEXTS) + text[found.end() :]
    return text.encode("utf-8", "replace")


def header_changed(data: bytes, rng: random.Random) -> bytes:
    """Safetensors: change the JSON header, with its correct length."""
    size = struct.unpack("<Q", data[:8])[0]
    header = token_replaced(data[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def repacked_zip(data: bytes, rng: random.Random) -> bytes:
    """An intact archive with one damaged, missing or duplicate member; older checkpoints are not archives."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return flipped(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    victim = rng.choice([name for name in members if members[name]])
    members[victim] = rng.choice((flipped, overwritten, cut, numpy_header_changed))(members[victim], rng)
    if rng.random() < 0.15:
        del members[victim]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return out.getvalue()


def numpy_header_changed(data: bytes, rng: random.Random) -> bytes:
    """Change the header of an .npy: type, order or shape."""
    if not data.startswith(b"\x93NUMPY"):
        return flipped(data, rng)
    size = struct.unpack("<H", data[8:10])[0]
    changes = (
        (rb"'shape': \([^)]*\)", (b"'shape': (-1,)", b"'shape': (9999999999, 9999)", b"'shape': ()", b"'shape': (2,)")),
        (
            rb"'descr': '[^']*'",
            (b"'descr': '|O'", b"'descr': '<f8'", b"'descr': '<U9'", b"'descr': '|V8'", b"'descr': '<c16'"),
        ),
        (rb"False", (b"True", b"[" * 300, b"9" * 300)),
    )
    pattern, values = rng.choice(changes)
    header = re.sub(pattern, lambda _: rng.choice(values), data[10 : 10 + size], count=1)
    return data[:8] + struct.pack("<H", len(header)) + header + data[10 + size :]


def repacked_tar(data: bytes, rng: random.Random) -> bytes:
    """An intact archive with one damaged, missing or renamed member."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    place = rng.randrange(len(members))
    info, body = members[place]
    suffix = Path(info.name).suffix
    info.name = rng.choice((info.name, info.name, info.name, "../../x", "/x", f"{info.name}.json", "x" * 200))
    members[place] = info, damaged(body, suffix, rng) if body else body
    if rng.random() < 0.15:
        del members[place]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:") as tar:
        for info, body in members:
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


def atom_changed(data: bytes, rng: random.Random) -> bytes:
    """MP4: change a size, a number of entries, a duration or the picture's size in its tables."""
    names = (
        b"moov",
        b"mvhd",
        b"tkhd",
        b"mdhd",
        b"stsd",
        b"stts",
        b"stsz",
        b"stco",
        b"stsc",
        b"ctts",
        b"elst",
        b"avc1",
        b"meta",
        b"iloc",
        b"ispe",
    )
    places = [(name, at.start()) for name in names for at in re.finditer(name, data) if at.start() >= 4]
    if not places:
        return flipped(data, rng)
    out = bytearray(data)
    _, at = rng.choice(places)
    offset = rng.choice((-4, 8, 12, 16, 20, 24, 28))
    out[at + offset : at + offset + 4] = struct.pack(">I", rng.choice(INTEGERS))
    return bytes(out)


def crafted_png(side: int, depth: int, colour: int, *, rows: int | None = None, text: bytes = b"") -> bytes:
    """A small PNG that declares side x side pixels, of which it contains `rows` rows."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row, packer = bytes(1 + (side * channels * depth + 7) // 8), zlib.compressobj(1)
    body = b"".join(packer.compress(row) for _ in range(side if rows is None else rows)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + text + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def many_frames_gif(side: int, frames: int, delay: int) -> bytes:
    """A GIF whose frames have one colour each, so it is tiny for its number of pixels."""
    from PIL import Image

    one = io.BytesIO()
    Image.new("P", (side, side)).save(one, "GIF")
    raw = one.getvalue()
    head = 13 + (3 * 2 ** ((raw[10] & 7) + 1) if raw[10] & 0x80 else 0)
    frame = b"\x21\xf9\x04\x00" + struct.pack("<H", delay) + b"\0\0" + raw[raw.index(b",", head) : -1]
    return raw[:head] + frame * frames + b";"
