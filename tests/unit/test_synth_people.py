"""MakeHuman's people: the packed file, bodies, clothes, and the truth of rendered clips."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from mimicmotion.errors import InputError
from mimicmotion.synth import render_clip
from mimicmotion.synth.assets import Assets, default_path, load_assets
from mimicmotion.synth.body import Body, Genes, random_genes, shape_vertices, shape_weights
from mimicmotion.synth.clothes import Cut, from_tights, hidden
from mimicmotion.synth.figure import HEAD_YAW, MOUTH
from mimicmotion.synth.hair import HairStyle, scalp_hair
from mimicmotion.synth.light import CLOTH, KIND, SKIN
from mimicmotion.synth.motion import face_actions, gaze, neutral
from mimicmotion.synth.people import make_figure
from mimicmotion.synth.place import KINDS, make_place
from mimicmotion.synth.rig import pose_bones
from mimicmotion.synth.view import choose_view

SIZE = (192, 112)
SMALL = (96, 56)
ADULT = Genes(0.0, 25.0, (0.0, 0.0, 1.0), 0.5, 0.5, 0.0)


@pytest.fixture(scope="module")
def assets() -> Assets:
    return load_assets()


def test_the_tests_file_is_the_one_its_note_names() -> None:
    note = default_path().with_suffix(".md").read_text()
    assert hashlib.sha256(default_path().read_bytes()).hexdigest() in note
    assert "CC0" in note


def test_a_missing_or_damaged_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pack_makehuman"):
        load_assets(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"bad\.npz"):
        load_assets(tmp_path / "bad.npz")
    np.savez(tmp_path / "old.npz", meta=np.frombuffer(b'{"format": "older"}', np.uint8))
    with pytest.raises(InputError, match="older"):
        load_assets(tmp_path / "old.npz")


def test_weights_of_bones_and_of_shapes_sum_to_one(assets: Assets) -> None:
    np.testing.assert_allclose(assets.weight.sum(1), 1, atol=1e-6)
    for age in (4.0, 12.0, 25.0, 60.0, 80.0):
        weights = shape_weights(dataclasses.replace(ADULT, age=age, female=0.3, muscle=0.2, weight=0.8))
        for kind in ("caucasian-", "universal-"):
            total = sum(w for name, w in weights.items() if name.startswith(f"macrodetails/{kind}"))
            assert total == pytest.approx(1, abs=0.01)  # shares below 0.001 are left out


def test_bodies_differ_by_age_sex_and_chance(assets: Assets) -> None:
    def tall(genes: Genes) -> float:
        y = shape_vertices(assets, genes)[:13380, 1]
        return float(y.max() - y.min())

    child = tall(dataclasses.replace(ADULT, age=9.0))
    assert 11 < child < 15 < tall(ADULT) < 20  # decimetres
    shapes = [shape_vertices(assets, random_genes(np.random.default_rng(k), assets))[:13380] for k in range(6)]
    for i, a in enumerate(shapes):
        for b in shapes[i + 1 :]:
            assert np.abs(a - b).max() > 0.02  # decimetres; the tests have few shapes to mix


def test_the_rest_pose_is_kept_by_a_pose_that_is_like_it(assets: Assets) -> None:
    """Hands, feet and head of the posed skeleton are where the parameters say, and sides mirror each other."""
    body = Body(assets, shape_vertices(assets, ADULT))
    pose = pose_bones(body, neutral()[None])
    mirror = np.array([-1, 1, 1])
    for name in ("wrist", "finger3-3", "foot", "lowerleg01", "upperarm01"):
        left, right = (pose.head[0, body.index(f"{name}.{s}")] for s in "LR")
        np.testing.assert_allclose(left, right * mirror, atol=0.05)  # the base mesh is not quite symmetric
    assert pose.head[0, body.index("foot.L"), 1] == pytest.approx(body.ankle, abs=1e-6)


def test_a_garment_ends_where_it_is_cut_and_hides_the_skin_under_it(assets: Assets) -> None:
    body = Body(assets, shape_vertices(assets, ADULT))
    vertices, level = body.vertices, body.level
    top = from_tights(body, Cut(99.0, level["hip"], 0.7 * body.elbow, "crew"), 0, loose=0.15)
    seen = top.mesh.vertices[top.mesh.cut > 0]
    assert seen[:, 1].min() > level["hip"] - 0.5
    assert np.abs(seen[:, 0]).max() < np.abs(vertices[:13380, 0]).max() - 1
    under = hidden([top])
    chest = (body.arm < 0.1) & (vertices[:, 1] > level["waist"]) & (vertices[:, 1] < level["armpit"])
    assert under[chest].all()
    assert not under[vertices[:, 1] > level["neck"] + 0.5].any()
    away = np.sqrt(((seen[:, None, :] - vertices[under][None, ::7]) ** 2).sum(-1)).min(1)
    assert away.mean() > 0.08  # decimetres between cloth and skin


def test_hair_grows_on_the_scalp(assets: Assets) -> None:
    body = Body(assets, shape_vertices(assets, ADULT))
    long, short = (scalp_hair(body, HairStyle(n), 0) for n in (0.8, 0.1))
    crown = body.level["crown"]
    heights = [max(float(mesh.vertices[mesh.cut > 0, 1].max()) for mesh in layers) for layers in (long, short)]
    assert heights[0] > heights[1] > crown
    assert heights[0] - crown == pytest.approx(0.83, abs=0.3)
    eyes = assets.vertices[np.unique(assets.faces("helper-l-eye")[0]), 1].mean()
    front = [mesh.vertices[(mesh.cut > 0.2) & (mesh.vertices[:, 2] > 1.2), 1] for mesh in short]
    assert min(f.min() for f in front if len(f)) > eyes


def test_a_figure_can_be_any_size_and_opens_its_mouth(assets: Assets) -> None:
    figure = make_figure(np.random.default_rng(3), assets, 100)
    kinds = set(figure.table[figure.mesh.material, KIND].astype(int))
    assert {SKIN, CLOTH} <= kinds
    assert 0.25 <= figure.occlusion.min() < 0.6 < figure.occlusion.max() <= 1
    pose = pose_bones(figure.body, neutral()[None])
    shut, wide = (figure.pose_vertices(pose, 0, {"jawOpen": w}) for w in (0.0, 1.0))
    moved = np.linalg.norm(wide - shut, axis=1)
    assert 0.15 < moved.max() < 1.0
    assert moved[figure.vertex_of[np.unique(assets.faces("helper-l-eye")[0])]].max() < 0.02


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
def test_places_have_light_and_a_floor(assets: Assets, kind: str) -> None:
    rng = np.random.default_rng(1)
    view = choose_view(rng, (96, 64), 17.0, "full")
    place = make_place(rng, assets, view, (96, 64), 8, kind)
    assert place.picture.shape == (112, 80, 3)
    assert np.isfinite(place.picture).all()
    assert 0 < place.picture.mean() < 1.2
    assert place.key[1] > 0
    assert float(np.linalg.norm(place.key)) == pytest.approx(1, abs=1e-5)


def test_view_puts_the_person_where_it_is_asked(assets: Assets) -> None:
    for seed in range(20):
        view = choose_view(np.random.default_rng(seed), (320, 192), 17.0, "full")
        foot, head = view.project(np.array([[0.0, 0, 0], [0, 17.0, 0]]))
        assert 0 < head[1] < foot[1] < 320
        ray = view.rays(np.array(foot[0]), np.array(foot[1]))
        hit = np.array(view.eye) + ray * (-view.eye[1] / ray[1])
        np.testing.assert_allclose(hit, 0, atol=1e-6)
        moved = view.moved((5.0, -3.0)).project(np.zeros(3))
        np.testing.assert_allclose(moved[:2], foot[:2] - (5, -3), atol=1e-6)


@pytest.mark.whole
def test_flow_leads_to_the_same_place_of_the_reference() -> None:
    """The reference, fetched along the flow, is the frame, but for the light that changes with the pose."""
    seen_share = []
    for seed in range(3):
        clip = render_clip(seed, 2, SIZE, framing="full", camera_motion=seed == 2)
        truth = clip.truth
        y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]].astype(np.float32)
        at = truth.flow[0] + np.stack([x, y], -1)
        fetched = cv2.remap(truth.reference_clean, at[..., 0], at[..., 1], cv2.INTER_LINEAR)
        for person in (True, False):
            where = truth.in_reference[0] & ((truth.mask[0] == 255) if person else (truth.mask[0] == 0))
            error = np.abs(fetched.astype(float) - truth.clean[0])[where].mean()
            apart = np.abs(truth.reference_clean.astype(float) - truth.clean[0])[truth.mask[0] == 255].mean()
            assert error < (16 if person else 2.5)  # light changes with the pose; measured up to 13.8 and 1.7
            if person:
                assert error < 0.6 * apart
                seen_share.append(truth.in_reference[0][truth.mask[0] == 255].mean())
    assert 0.4 < np.mean(seen_share) < 0.999


def test_mask_depth_and_background_agree() -> None:
    clip = render_clip(5, 2, SIZE, framing="full")
    truth = clip.truth
    assert np.isfinite(truth.depth[truth.mask > 0]).all()
    assert np.isinf(truth.depth[truth.mask == 0]).all()
    inside = truth.depth[np.isfinite(truth.depth)]
    assert np.ptp(inside) < 2.5  # metres from the nearest fingertip to the farthest
    apart = np.abs(truth.clean.astype(int) - truth.background).max(-1)
    assert (apart[truth.mask == 255] > 6).mean() > 0.85
    assert (apart[truth.mask == 0] > 40).mean() < 0.02  # shadows alone
    shoulders = clip.poses.xy[:, [2, 5]].round().astype(int)
    for k in range(2):
        for x, y in shoulders[k]:
            assert truth.mask[k, y, x] == 255


@pytest.mark.whole
def test_noise_and_compression_are_all_that_frames_and_clean_frames_differ_by() -> None:
    worst = []
    for seed in range(4):
        clip = render_clip(seed, 1, SMALL)
        worst.append(np.abs(clip.frames.astype(int) - clip.truth.clean).mean())
    assert max(worst) < 8
    assert max(worst) > 0.3


def test_mouth_parameter_opens_the_mouth_in_the_picture() -> None:
    q = np.stack([neutral()] * 2)
    q[1, MOUTH] = 2.0
    shut, open_ = face_actions(np.random.default_rng(0), q, np.zeros(2))
    assert open_["jawOpen"] > shut.get("jawOpen", 0) + 0.3


def test_eyes_rest_on_a_place_while_the_head_turns_and_jump_to_the_next_one() -> None:
    q = np.tile(neutral(), (120, 1))
    q[:, HEAD_YAW] = 0.2 * np.sin(np.arange(120) / 10)
    eyes = gaze(np.random.default_rng(0), q, np.arange(120) / 30)[:, 0]
    assert np.abs(eyes).max() <= 0.44
    place = eyes + q[:, HEAD_YAW]
    still = np.abs(np.diff(place)) < 1e-9
    assert 0.8 < still[np.abs(eyes[1:]) < 0.44].mean() < 1
    assert (np.abs(place) < 1e-9).mean() > 0.1  # at the camera
    face = face_actions(np.random.default_rng(0), q, np.arange(120) / 30)
    for frame in face:
        assert frame["eyeLookOutLeft"] == frame["eyeLookInRight"]
        assert min(frame["eyeLookOutLeft"], frame["eyeLookInLeft"]) == 0
    assert max(frame["eyeLookOutLeft"] for frame in face) > 0.2


def test_packing_reads_makehumans_garments(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "scripts" / "pack_makehuman.py"
    spec = importlib.util.spec_from_file_location("pack_makehuman", path)
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (tmp_path / "hat.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nvt 0 0\nvt 1 1\nf 1/1 2/2 4/1 3/2\n")
    row = "1 2 3 0.5 0.25 0.25 0.1 0.2 0.3"
    lines = ["# a hat", "obj_file hat.obj", "x_scale 1 2 2.0", "verts 0", "5", row, "7", "8", "delete_verts", "2 - 4 9"]
    (tmp_path / "hat.mhclo").write_text("\n".join(lines))
    asset = script.read_asset(tmp_path / "hat.mhclo", 12)
    assert asset["vertex"].tolist() == [[5, 5, 5], [1, 2, 3], [7, 7, 7], [8, 8, 8]]
    np.testing.assert_allclose(asset["offset"][1], [0.1, 0.2, 0.3], atol=1e-6)
    assert len(asset["triangles"]) == 2
    assert np.flatnonzero(np.unpackbits(asset["hides"], count=12)).tolist() == [2, 3, 4, 9]
    np.testing.assert_allclose(asset["scale"], [[0, 1, 2, 2.0]])
