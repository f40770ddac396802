"""Procedural synthetic people with exact keypoints."""
