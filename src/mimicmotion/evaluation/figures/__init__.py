"""The paper's figures from results: PNG files, and the numbers they show as CSV files."""
