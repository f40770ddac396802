"""Poses with confidence: estimators, alignment, drawing. No torch here."""
