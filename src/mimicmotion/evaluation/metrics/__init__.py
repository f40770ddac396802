"""Video metrics and their confidence intervals."""
