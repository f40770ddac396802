"""The bundled small model: narrow versions of SVD's networks, with a warped picture and a detail network."""
