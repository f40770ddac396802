"""Where segments meet, by the sampling plan or a result's sidecar; and the streamed seam score."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from evaluation_clips import frames
from mimicmotion.evaluation.metrics import measures, temporal
from mimicmotion.evaluation.metrics.temporal import has_sidecars, segment_borders, sidecar_fusion
from mimicmotion.settings import FusionConfig, parse


def test_borders_of_overlapping_segments_and_of_hard_cuts() -> None:
    plan = FusionConfig(segment_frames=8, overlap_frames=2, reference_slot=False)
    assert segment_borders(20, plan) == [6, 8, 12, 14]  # [0, 8), [6, 14), [12, 20)
    cuts = FusionConfig(mode="none", segment_frames=8, overlap_frames=2, reference_slot=False)
    assert segment_borders(20, cuts) == [8, 16]  # the last segment, [12, 20), leaves what it shares to the second
    assert segment_borders(8, plan) == []
    slot = FusionConfig(segment_frames=9, overlap_frames=3)
    assert segment_borders(20, slot) == [6, 8, 12, 14]  # the slot is one of both numbers


@pytest.mark.parametrize("cuts", [[], [5], [1, 2, 8]])
def test_pieces_give_the_score_of_the_whole(cuts: list[int]) -> None:
    clip = frames(1, 3.0, count=12)
    clip[6:] = np.clip(clip[6:].astype(int) + 40, 0, 255)
    measure = measures.seam_score([6, 9, 30])
    for piece in np.split(clip, cuts):
        measure.add(piece, piece)
    got = measure.result()["seam"]
    whole = temporal.seam_scores(temporal.jumps(clip), [6, 9])
    assert got == pytest.approx(whole.mean())
    assert whole[0] > 1.3
    assert math.isnan(measures.seam_score([]).result()["seam"])
    dense = measures.seam_score(list(range(1, 12)))
    dense.add(clip, clip)
    assert math.isnan(dense.result()["seam"])  # no jump that crosses no border


def test_what_the_sidecar_says(tmp_path: Path) -> None:
    video, sidecar = tmp_path / "a.mp4", tmp_path / "a.mp4.json"
    assert sidecar_fusion(video) is None
    assert not has_sidecars(tmp_path)
    used = {"mode": "average", "segment_frames": 12, "overlap_frames": 4, "reference_slot": False}
    sidecar.write_text(json.dumps({"fusion": used, "settings": {"segment_frames": 72, "overlap_frames": 6}}))
    assert sidecar_fusion(video) == parse(FusionConfig, used)  # what was used wins over what was asked for
    assert not has_sidecars(tmp_path)  # a sidecar of nothing
    video.touch()
    assert has_sidecars(tmp_path)
    for text in ('{"settings": {"segment_frames": 72}}', "[1]", "{", '{"fusion": {"segment_frames": 0}}'):
        sidecar.write_text(text)
        assert sidecar_fusion(video) is None
