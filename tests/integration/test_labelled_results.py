"""Results of the job generate with their labels: reproducible, visible on request, signed, inspected."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mimicmotion import cli
from mimicmotion.errors import ConfigError
from mimicmotion.generate.inspect import inspect
from mimicmotion.generate.job import generate
from mimicmotion.generate.outputs import side_by_side_path
from mimicmotion.generate.replay import replay
from mimicmotion.runtime.progress import finish
from mimicmotion.settings import GenerateConfig
from mimicmotion.video.labels import draw, read
from planted_job import frames_of

pytestmark = pytest.mark.whole


def test_every_result_is_labelled_by_what_it_is_made_of(job: GenerateConfig) -> None:
    first = read(finish(generate(dataclasses.replace(job, side_by_side=True))).path)
    assert (first["Label"], first["ContentProducer"], len(first["ProduceID"])) == ("1", "mimicmotion", 32)
    assert read(side_by_side_path(job.output)) == first
    elsewhere = dataclasses.replace(job, output=job.output.with_suffix(".mkv"), save_every=0, producer="a service")
    other = read(finish(generate(elsewhere)).path)
    assert other["ContentProducer"] == "a service"
    changed = dataclasses.replace(job, seed=job.seed + 1)
    assert read(finish(generate(changed)).path)["ProduceID"] != first["ProduceID"]


def test_the_visible_label_stands_for_two_seconds(job: GenerateConfig) -> None:
    frames = dataclasses.replace(job, output=job.output.with_name("plain"), fps=2.6)
    plain = frames_of(finish(generate(frames)).path)
    visible = dataclasses.replace(frames, output=job.output.with_name("shown"), label="visible")
    shown = frames_of(finish(generate(visible)).path)
    labelled = [not np.array_equal(a, b) for a, b in zip(plain, shown, strict=True)]
    count = min(len(plain), 6)  # 2 s at 2.6 frames per second, rounded up
    assert labelled == [True] * count + [False] * (len(plain) - count)
    assert np.array_equal(shown[0], draw(plain[0]))


def test_a_signed_result_is_replayed_and_inspected(job: GenerateConfig, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("c2pa")
    signed = dataclasses.replace(job, label="signed")
    result = finish(generate(signed))
    assert result.unsigned_sha256
    found = inspect(result.path)
    assert (found.signature, found.sidecar, found.changed) == ("valid", "unchanged", False)
    again = finish(replay(result.sidecar))
    assert again.identical
    assert again.original_state == "unchanged"
    assert again.made.path.read_bytes() != result.path.read_bytes()  # signed anew
    data = bytearray(result.path.read_bytes())
    data[-50] ^= 1
    result.path.write_bytes(data)
    assert cli.main(["inspect", str(result.path)]) == 1
    said = capsys.readouterr().out
    assert "made by a model, by mimicmotion" in said
    assert "CHANGED since it was signed" in said
    assert "does NOT match the file" in said


def test_inspect_speaks_of_folders_and_of_files_of_others(job: GenerateConfig, tmp_path: Path) -> None:
    result = finish(generate(dataclasses.replace(job, output=tmp_path / "frames")))
    found = inspect(result.path)
    assert (found.label["Label"], found.signature, found.sidecar) == ("1", "none", "unchanged")
    (result.path / "frame_000001.png").unlink()
    assert inspect(result.path).changed
    other = inspect(job.video)
    assert (other.label, other.sidecar, other.changed) == ({}, "missing", False)
    assert "does not say how it was made" in other.summary()
    with pytest.raises(Exception, match="without frames"):
        inspect(tmp_path / "cache")


def test_what_cannot_be_signed_is_refused_before_any_work(job: GenerateConfig) -> None:
    pytest.importorskip("c2pa")
    with pytest.raises(ConfigError, match="label=signed with mkv"):
        finish(generate(dataclasses.replace(job, label="signed", output=job.output.with_suffix(".mkv"))))
    with pytest.raises(ConfigError, match="PEM"):
        finish(generate(dataclasses.replace(job, label="signed", signer=job.picture)))
    with pytest.raises(ConfigError, match="with label=visible, where it has no effect"):
        dataclasses.replace(job, label="visible", signer=job.picture)
    assert not job.output.exists()
