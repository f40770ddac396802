"""Videos and pictures in and out, and the one geometry transform. No torch here."""
