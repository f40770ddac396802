"""Tar files of clips, and their index: writing, reading and fetching."""
