"""What is measured of a video, and its intervals."""
