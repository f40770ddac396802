"""Training clips of synthetic people."""
