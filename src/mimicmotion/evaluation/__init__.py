"""Evaluation of generated videos: metrics with intervals, tables, figures."""
