"""Files of weights: which are known, where they are, fetching, checking and reading them."""
