"""A user study by pairs: its folder, the page to show and vote, raters, votes, and what the votes say."""
