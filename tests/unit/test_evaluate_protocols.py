"""Which part of a frame is compared with which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion.errors import ConfigError, InputError
from mimicmotion.evaluation.protocols import TIKTOK, MethodCrop, Protocol, load_protocol, plan_fits
from mimicmotion.evaluation.videos import find_sequences, missing
from mimicmotion.video.picture import write_picture

REAL = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)


def test_real_frames_are_copied_and_equal_sizes_too() -> None:
    fits = plan_fits(Protocol(), "ours", (60, 40), (60, 40))
    assert np.array_equal(fits.real.apply(REAL), REAL)
    assert np.array_equal(fits.generated.apply(REAL), REAL)
    assert fits.notes == ()


def test_squares_of_a_whole_frame_and_of_a_square_result_meet() -> None:
    square = REAL[10:50]
    for generated in (REAL, square):
        fits = plan_fits(TIKTOK, "ours", (60, 40), generated.shape[:2])
        assert np.array_equal(fits.real.apply(REAL), square)
        assert np.array_equal(fits.generated.apply(generated), square)


def test_a_method_that_was_shown_a_crop_is_compared_there() -> None:
    crop = Protocol(
        methods={"ours": MethodCrop(shows=(4, 6, 24, 30)), "theirs": MethodCrop(shows=(0.1, 0.1, 0.6, 0.5))}
    )
    for method, size in (("ours", (30, 24)), ("theirs", (30, 24))):
        fits = plan_fits(crop, method, (60, 40), size)
        assert np.array_equal(fits.generated.apply(REAL[6:36, 4:28]), fits.real.apply(REAL))
        assert "only 24 x 30 at (4, 6)" in fits.notes[0]


def test_other_shapes_are_stretched_with_a_note_or_centred() -> None:
    fits = plan_fits(Protocol(), "ours", (60, 40), (30, 30))
    assert fits.generated.target == (60, 40)
    assert "stretched" in fits.notes[0]
    centred = plan_fits(Protocol(crop=MethodCrop(shows="centre")), "ours", (60, 40), (30, 30))
    assert centred.real.target == (40, 40)
    assert np.array_equal(centred.real.apply(REAL), REAL[10:50])


@given(st.tuples(*[st.integers(8, 90)] * 4), st.sampled_from([None, 16, 33]), st.sampled_from(["full", "square"]))
def test_both_sides_always_have_one_size(sizes: tuple[int, int, int, int], side: int | None, region: str) -> None:
    real, generated = sizes[:2], sizes[2:]
    fits = plan_fits(Protocol(size=side, region=region), "ours", real, generated)  # pyrefly: ignore
    a = fits.real.apply(np.full((*real, 3), 7, np.uint8))
    b = fits.generated.apply(np.full((*generated, 3), 7, np.uint8))
    assert a.shape == b.shape
    assert (a == 7).all()
    assert (b == 7).all()  # nothing from outside of either frame


def test_crops_that_do_not_meet_are_refused() -> None:
    with pytest.raises(InputError, match="common pixels"):
        plan_fits(Protocol(crop=MethodCrop(shows=(0, 0, 10, 5))), "ours", (60, 40), (30, 30))
    with pytest.raises(ConfigError, match="shows"):
        MethodCrop(shows=(0, 0, 0, 5))


def test_protocol_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: tiktok\nsize: 512\nmethods:\n  ours: {shows: [0, 0.2, 1, 0.5]}\n  theirs: {shows: centre}\n")
    got = load_protocol(str(file))
    assert (got.name, got.size, got.region) == ("mine", 512, "square")
    assert got.sequences == TIKTOK.sequences == ("335", "336", "337", "338", "339", "340")
    assert got.crop_of("ours").shows == (0, 0.2, 1, 0.5)
    assert got.crop_of("another").shows == "auto"
    for wrong in ("tiktack", str(tmp_path / "none.yaml")):
        with pytest.raises(ConfigError):
            load_protocol(wrong)
    file.write_text("regions: full\n")
    with pytest.raises(ConfigError, match="regions"):
        load_protocol(str(file))


def test_sequences_of_the_public_layout(tmp_path: Path) -> None:
    for n in (1, 335, 340):
        write_picture(tmp_path / f"{n:05d}" / "images" / "0001.png", REAL)
        write_picture(tmp_path / f"{n:05d}" / "masks" / "0001.png", REAL)
    (tmp_path / "336.mp4").write_bytes(b"x")
    found = find_sequences(tmp_path, TIKTOK)
    assert {k: v.relative_to(tmp_path).as_posix() for k, v in found.items()} == {
        "335": "00335/images",
        "336": "336.mp4",
        "340": "00340/images",
    }
    lines = missing(found, {"ours": {"335": tmp_path, "x": tmp_path}}, TIKTOK.sequences)
    assert "real: no sequence 337" in lines
    assert "ours: no sequence 340" in lines
    assert "ours: x has no real video, left out" in lines
    write_picture(tmp_path / "335" / "images" / "0001.png", REAL)
    with pytest.raises(InputError, match="both sequence 335"):
        find_sequences(tmp_path, TIKTOK)
    with pytest.raises(InputError, match="no videos"):
        find_sequences(tmp_path / "335" / "images", Protocol())
