from __future__ import annotations

import numpy as np
import torch

from micro import micro_pipeline
from mimicmotion.backbones.svd.vae import encode_mode
from mimicmotion.synth import render_clip
from scripts_of_repository import load

SIZE = (192, 128)
latent_warp = load("benchmarks/latent_warp.py")
filled, warp_latents = latent_warp.filled, latent_warp.warp_latents


def test_cells_go_with_the_limbs_and_the_rest_stays() -> None:
    clip = render_clip(3, 2, SIZE)
    pipe = micro_pipeline()
    shown: list[torch.Tensor] = []
    decode = pipe.decode
    pipe.decode = lambda latents: shown.append(latents) or decode(latents)  # type: ignore[method-assign, func-returns-value]
    frames = warp_latents(pipe, clip.reference_frame, clip.reference_pose, clip.reference_pose)
    assert frames.shape == (1, *SIZE, 3)
    picture = torch.from_numpy(clip.reference_frame).permute(2, 0, 1)[None].float() / 127.5 - 1
    own = encode_mode(pipe.backbone.vae, picture)[0] * pipe.backbone.vae.config["scaling_factor"]
    at_home = (shown[0][0] - own).abs().amax(0) < 1e-4  # its own pose: all but hidden parts are where they were
    assert float(at_home.float().mean()) > 0.95
    aside = type(clip.reference_pose)(
        clip.reference_pose.xy + np.float32([8, 0]), clip.reference_pose.confidence, SIZE, 0.0
    )
    warp_latents(pipe, clip.reference_frame, clip.reference_pose, aside)
    moved = shown[1][0]
    same = (moved - own).abs().amax(0) < 1e-4
    cell = (moved[:, :, 1:] - own[:, :, :-1]).abs().amax(0) < 1e-3  # eight pixels are a cell
    assert 0.2 < float(same.float().mean()) < 0.95
    assert bool((cell | same[:, 1:]).float().mean() > 0.6)
    assert bool((cell & ~same[:, 1:]).any())


def test_what_the_person_left_comes_from_around_it() -> None:
    latent = np.zeros((2, 9, 9), np.float32)
    latent[0, 4, 4], latent[1] = 100.0, 3.0
    person = np.zeros((9, 9), bool)
    person[4, 4] = True
    out = filled(latent, person)
    assert abs(float(out[0, 4, 4])) < 1e-3
    np.testing.assert_allclose(out[1], 3.0, rtol=1e-5)
    assert np.array_equal(filled(latent, ~person & False), latent)


def test_a_picture_without_a_seen_person_stays() -> None:
    clip = render_clip(3, 1, SIZE)
    nobody = type(clip.reference_pose)(clip.reference_pose.xy, clip.reference_pose.confidence * 0, SIZE, 0.0)
    pipe = micro_pipeline()
    got = warp_latents(pipe, clip.reference_frame, nobody, clip.poses)
    assert (got == got[:1]).all()
