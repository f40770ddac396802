"""Ablation studies: runs that differ in one setting, and their report."""
