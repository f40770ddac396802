"""A paired user study: its folder, the page for raters, their links and votes, and the analysis of the votes."""
