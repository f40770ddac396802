"""Reading and writing of videos and pictures, and the geometry transform. Independent of torch."""
