"""Read and write videos and pictures, and transform their geometry. Independent of torch."""
