"""Training samples: which frames, in which order, and that all parts of a sample belong together."""

from __future__ import annotations

import dataclasses
import logging
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray

from fake_shards import FakeShards, write_records
from mimicmotion.data.samples.batch import Sample, collate
from mimicmotion.data.samples.sample import FrameChoice, SampleMaker
from mimicmotion.data.shards.shards import open_shards
from mimicmotion.data.shards.writing import RecordData, ShardSettings
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.pose.guidance.skeleton import PoseDrawer
from mimicmotion.pose.hands import hand_masks
from mimicmotion.settings import parse
from mimicmotion.settings.samples import SampleConfig
from mimicmotion.synth.noise import perturb_poses

LOOK = {"canvas_short_side": None, "stroke": 2.0}


def maker(shards: Any = None, seed: int = 0, **config: Any) -> SampleMaker:
    settings = SampleConfig(**{"num_frames": 5} | config)
    return SampleMaker(shards or FakeShards(), settings, seed=seed, downscale=8, drawing=LOOK)


def choices(make: SampleMaker, number: int) -> FrameChoice:
    rng = np.random.default_rng([make.seed, number])
    return make.choose(rng, make.config)


def find(shards: FakeShards, picture: ndarray) -> tuple[int, int]:
    """Record and stored frame of a picture (all are different)."""
    for i, record in enumerate(shards.records):
        hits = np.flatnonzero((record.pictures == picture).all((1, 2, 3)))
        if len(hits):
            return i, int(hits[0])
    raise AssertionError("no stored frame")


def assert_equal(a: Sample, b: Sample) -> None:
    for f in dataclasses.fields(Sample):
        np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name), err_msg=f.name)


many = given(
    number=st.integers(0, 2**40),
    slots=st.integers(2, 8),
    stills=st.integers(0, 3),
    fps=st.sampled_from([6.0, 10.0, 15.0, 29.97, 60.0]),
    slot=st.booleans(),
    reverse=st.sampled_from([0.0, 0.5, 1.0]),
    spacing=st.sampled_from(["interval", "spread"]),
)


@many
def test_frames_are_of_one_scene_in_order_at_equal_intervals(
    number: int, slots: int, stills: int, fps: float, slot: bool, reverse: float, spacing: Any
) -> None:
    shards = FakeShards((40, 45, 50), size=(16, 16), stills=stills, fps=(fps,))
    make = maker(shards, num_frames=slots, reference_slot=slot, reverse=reverse, spacing=spacing)
    choice = choices(make, number)
    assert len(choice.frames) == slots - slot
    assert stills <= min(choice.frames)
    assert max(choice.frames) < shards.num_frames[choice.record]
    steps = {b - a for a, b in pairwise(choice.frames)}
    assert all(s > 0 for s in steps) or (reverse and all(s < 0 for s in steps))
    if spacing == "interval" and steps:
        (step,) = steps
        assert choice.fps == pytest.approx(fps / abs(step))
        shortest, longest = make.config.interval
        # half a frame of rounding either way, and never less than one frame
        assert abs(step) <= max(1, longest * fps + 0.5)
        assert abs(step) >= max(1, shortest * fps - 0.5)


@given(number=st.integers(0, 1000), reverse=st.sampled_from([0.0, 1.0]), slot=st.booleans())
def test_all_parts_of_a_sample_belong_together(number: int, reverse: float, slot: bool) -> None:
    """Frames, drawn poses and hand masks of a slot are of the same stored frame; the reference's too."""
    shards = FakeShards()
    make = maker(shards, reverse=reverse, reference_slot=slot)
    sample = make(number)
    drawer = PoseDrawer(shards.size, **LOOK)
    assert sample.frames is not None
    assert sample.latents is sample.reference_latents is None
    places = [find(shards, f) for f in (sample.reference, *sample.frames)]
    for (record, frame), drawn in zip(places, (sample.reference_pose, *sample.poses), strict=True):
        poses = shards.records[record].poses[slice(frame, frame + 1)]
        np.testing.assert_array_equal(drawn, drawer.draw(poses.xy[0], poses.confidence[0]))
    driving = places[1 + slot :]
    assert {r for r, _ in driving} == {shards.keys.index(sample.key)}
    for (record, frame), mask in zip(driving, sample.hand_mask[int(slot) :], strict=True):
        poses = shards.records[record].poses[slice(frame, frame + 1)]
        np.testing.assert_array_equal(mask, hand_masks(poses, make.grid)[0])
    if slot:
        assert places[1] == places[0]
        assert not sample.hand_mask[0].any()
    assert (driving[1][1] < driving[0][1]) == bool(reverse)


def test_hands_of_the_reference_slot_have_no_weight() -> None:
    shards = FakeShards()
    for record in shards.records:
        record.poses.confidence[:] = 1
    sample = maker(shards)(0)
    assert not sample.hand_mask[0].any()
    assert sample.hand_mask[1:].reshape(4, -1).max(1).min() > 0
    assert maker(shards, reference_slot=False)(0).hand_mask[0].max() > 0


def test_a_sample_depends_on_seed_and_number_alone() -> None:
    make, again = maker(detector_noise=1.0), maker(detector_noise=1.0)
    order = [7, 3, 9, 3]
    first = [make(n) for n in order]
    for number, sample in zip(reversed(order), reversed(first), strict=True):
        assert_equal(again(number), sample)
    assert len({choices(make, n).frames[0] for n in range(40)}) > 5
    other = maker(seed=1)
    assert any(choices(make, n) != choices(other, n) for n in range(3))


class _Numbered(torch.utils.data.Dataset):
    def __init__(self, make: SampleMaker) -> None:
        self.make = make

    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> Sample:
        return self.make(number)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_worker_processes_give_the_same_batches() -> None:
    make = maker(detector_noise=1.0, reverse=0.5)
    runs = [
        list(torch.utils.data.DataLoader(_Numbered(make), batch_size=2, num_workers=n, collate_fn=collate))
        for n in (0, 1, 2)
    ]
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert a.numbers == b.numbers
            assert a.keys == b.keys
            torch.testing.assert_close(a.poses, b.poses, rtol=0, atol=0)
            torch.testing.assert_close(a.frames, b.frames, rtol=0, atol=0)
            torch.testing.assert_close(a.hand_mask, b.hand_mask, rtol=0, atol=0)


def test_records_intervals_and_references_are_spread_evenly() -> None:
    shards = FakeShards((31, 61, 91), stills=1, fps=(30.0,))
    make = maker(shards, interval=(1 / 30, 8 / 30), num_frames=3)
    drawn = [choices(make, n) for n in range(3000)]
    records = np.bincount([c.record for c in drawn], minlength=3) / len(drawn)
    np.testing.assert_allclose(records, 1 / 3, atol=0.04)
    steps = np.array([c.frames[1] - c.frames[0] for c in drawn])
    # log-uniform over a factor of 8: a third of the samples in each octave (rounding moves the borders to 1.5, 3.5)
    share = np.array([(steps == s).mean() for s in range(1, 9)])
    edges = np.log2([1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8]) / 3
    np.testing.assert_allclose(share, np.diff(edges), atol=0.04)
    # the reference: any frame of the two scenes of the video, each as likely as any other
    of_first = [c.reference for c in drawn if c.record in (0, 1)]
    counts = np.bincount([r * 31 + f for r, f in of_first], minlength=92)
    assert counts.min() > 0
    assert abs(np.mean([r == 0 for r, _ in of_first]) - 31 / 92) < 0.05
    assert {c.reference[0] for c in drawn if c.record == 2} == {2}
    starts = np.array([c.frames[0] for c in drawn if c.record == 0 and c.frames[1] - c.frames[0] == 1])
    assert starts.min() == 1
    assert starts.max() == 31 - 2


def test_reference_of_the_clip_stays_in_it_and_stills_are_references_only() -> None:
    make = maker(FakeShards((12, 12)), reference="clip")
    drawn = [choices(make, n) for n in range(300)]
    assert all(c.reference[0] == c.record for c in drawn)
    assert {c.reference[1] for c in drawn} == set(range(12))
    assert min(min(c.frames) for c in drawn) == 1
    make = maker(FakeShards((12, 12)), reference="first")
    assert all(choices(make, n) == dataclasses.replace(c, reference=(c.record, 0)) for n, c in enumerate(drawn))


def test_switches_of_the_look_keep_the_frames() -> None:
    """The training runs of an ablation differ in nothing else."""
    plain = maker()
    for change in ({"guidance": "threshold"}, {"detector_noise": 1.0}, {"hand_threshold": 0.5}):
        for number in range(5):
            assert choices(plain, number) == choices(maker(**change), number)


def test_a_short_scene_takes_the_interval_that_fits() -> None:
    shards = FakeShards((9,), stills=0, fps=(30.0,))
    make = maker(shards, interval=(1 / 30, 1 / 6))  # 4 driving frames: at most every second stored one
    steps = {c.frames[1] - c.frames[0] for c in (choices(make, n) for n in range(100))}
    assert steps == {1, 2}
    sample = make(0)
    assert sample.fps in (30.0, 15.0)


def test_scenes_that_are_too_short_are_named_before_the_work() -> None:
    shards = FakeShards((17, 5, 24), fps=(15.0,))
    with pytest.raises(InputError, match=r"1 of 3 records are too short; v0-001 has 4 frames at 15 fps") as e:
        maker(shards, num_frames=6)
    assert "at least 5 for 4 driving" not in str(e.value)
    assert "at least 5 for 5 driving" in str(e.value)
    assert "short_records: skip" in str(e.value)
    with pytest.raises(InputError, match="3 of 3 records") as e:
        maker(shards, num_frames=60, short_records="skip")
    assert "short_records" not in str(e.value)
    make = maker(shards, num_frames=4)
    with pytest.raises(InputError, match="too short"):
        make(0, num_frames=6)


def test_short_scenes_can_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    shards = FakeShards((17, 5, 24))
    with caplog.at_level(logging.WARNING):
        make = maker(shards, num_frames=6, short_records="skip")
    assert "1 of 3 records" in caplog.text
    assert {choices(make, n).record for n in range(60)} == {0, 2}
    # the reference may still come from the short one
    assert {choices(make, n).reference[0] for n in range(60)} == {0, 1, 2}


def test_length_and_spacing_can_differ_per_call() -> None:
    make = maker()
    sample = make(3, num_frames=3, spacing="spread")
    assert sample.frames is not None
    assert sample.frames.shape == (3, 32, 16, 3)
    assert_equal(make(3), maker()(3))


def test_single_pictures_are_samples_too() -> None:
    sample = maker(FakeShards((1, 1), stills=0), num_frames=1, reference_slot=False)(0)
    assert sample.frames is not None
    assert len(sample.frames) == len(sample.poses) == len(sample.hand_mask) == 1


def test_threshold_guidance_shows_all_or_nothing() -> None:
    """Above the threshold as if certain, below it as if unseen; the hand mask still uses the confidence."""
    shards = FakeShards(size=(64, 48))
    on, off = maker(shards, guidance="threshold"), maker(shards)
    sample, plain = on(1), off(1)
    choice = choices(on, 1)
    poses = shards[choice.record].poses
    xy, confidence = poses.xy[choice.frames], poses.confidence[choice.frames]
    for i, c in enumerate(confidence):
        drawn = PoseDrawer(shards.size, **LOOK).draw(xy[i], np.where(c > 0.3, 1.0, 0.0))
        np.testing.assert_array_equal(sample.poses[i + 1], drawn)
        own = PoseDrawer(shards.size, **LOOK, confidence_aware=False, threshold=0.3).draw(xy[i], c)
        np.testing.assert_array_equal(own, drawn)
    np.testing.assert_array_equal(sample.hand_mask, plain.hand_mask)
    assert (sample.poses != plain.poses).any()


def test_certain_poses_look_the_same_with_either_guidance() -> None:
    shards = FakeShards(size=(64, 48))
    for record in shards.records:
        record.poses.confidence[:] = record.poses.confidence > 0.5
    for number in range(3):
        assert_equal(maker(shards)(number), maker(shards, guidance="threshold")(number))


def test_detector_noise_is_on_every_pose_and_in_the_hand_masks() -> None:
    shards = FakeShards(size=(64, 48))
    exact, noisy = maker(shards)(2), maker(shards, detector_noise=2.0)(2)
    for a, b in zip((exact.reference_pose, *exact.poses), (noisy.reference_pose, *noisy.poses), strict=True):
        assert (a != b).any()
    np.testing.assert_array_equal(exact.frames, noisy.frames)
    np.testing.assert_array_equal(noisy.poses[0], noisy.reference_pose)
    assert (exact.hand_mask != noisy.hand_mask).any()
    choice = choices(maker(shards), 2)
    source = shards[choice.record].poses
    driving = dataclasses.replace(source[choice.frames], fps=choice.fps)
    expected = hand_masks(perturb_poses(driving, choice.noise_seeds[0], 2.0), (8, 6))
    np.testing.assert_array_equal(noisy.hand_mask[1:], expected)
    assert (shards[choice.record].poses.xy == FakeShards(size=(64, 48))[choice.record].poses.xy).all()


def test_samples_of_shards_on_disk_are_those_in_memory(tmp_path: Path) -> None:
    fake = FakeShards(size=(32, 16), fps=(15.0, 10.0, 6.0))
    records = [RecordData(key=r.key, video=r.video, frames=r.pictures, poses=r.poses, stills=1) for r in fake.records]
    write_records(tmp_path, ShardSettings(size=(32, 16), store="png"), records)
    shards = open_shards(tmp_path)
    assert shards.keys == fake.keys
    assert pickle.loads(pickle.dumps(maker(shards)))(0).key == maker(fake)(0).key  # for workers that are spawned
    for number in range(4):
        assert_equal(maker(shards, detector_noise=1.0)(number), maker(fake, detector_noise=1.0)(number))


# --- settings and batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_frames": 1}, "at least one driving frame"),
        ({"interval": (0.2, 0.1)}, "shortest <= longest"),
        ({"interval": (0.0, 0.1)}, "shortest <= longest"),
        ({"hand_threshold": -0.1}, "hand_threshold"),
        ({"detector_noise": 11}, "detector_noise"),
        ({"reference": "other"}, "reference"),
        ({"frames": 3}, "did you mean num_frames"),
    ],
)
def test_invalid_settings_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(SampleConfig, setting)


def test_invalid_makers_are_refused() -> None:
    shards = FakeShards(size=(36, 16))
    with pytest.raises(ConfigError, match="36x16"):
        maker(shards)


def test_batch_is_the_samples_in_unit_range() -> None:
    samples = [maker()(n) for n in (4, 9)]
    batch = collate(samples)
    assert len(batch) == 2
    assert batch.numbers == [4, 9]
    assert batch.keys == [s.key for s in samples]
    assert batch.frames is not None
    assert batch.frames.shape == batch.poses.shape == (2, 5, 3, 32, 16)
    assert batch.reference.shape == batch.reference_pose.shape == (2, 3, 32, 16)
    assert batch.hand_mask.shape == (2, 5, 4, 2)
    assert batch.latents is batch.reference_latents is None
    torch.testing.assert_close(batch.fps, torch.tensor([s.fps for s in samples]))
    for i, sample in enumerate(samples):
        assert sample.frames is not None
        np.testing.assert_allclose(
            (batch.frames[i].numpy().transpose(0, 2, 3, 1) + 1) * 127.5, sample.frames, atol=1e-4
        )
        np.testing.assert_allclose((batch.poses[i].numpy().transpose(0, 2, 3, 1) + 1) * 127.5, sample.poses, atol=1e-4)
    assert batch.frames.dtype == batch.poses.dtype == torch.float32
    moved = batch.to("cpu")
    torch.testing.assert_close(moved.poses, batch.poses)
    assert moved.keys == batch.keys
