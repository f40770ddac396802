"""Base models, a folder each, behind one protocol."""
