"""The `generate` job, and jobs related to it: plan, poses, mask, batch, replay, demo."""
