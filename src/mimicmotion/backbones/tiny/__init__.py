"""The bundled small model: SVD's networks at small width, with a warped picture and a detail network."""
