"""Tar files of clips and their index: writing, reading, fetching."""
