"""A user study by pairs: a page to show and vote, a server that keeps the votes, and what the votes say."""
