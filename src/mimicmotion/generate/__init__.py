"""The job generate, and what goes with it: plan, poses, mask, replay, demo."""
