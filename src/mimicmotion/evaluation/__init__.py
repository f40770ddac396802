"""Measures of a generated clip: pixels, re-detected poses, time, intervals, and baselines to compare with."""
