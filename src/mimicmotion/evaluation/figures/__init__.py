"""The paper's figures, made from results: PNG files, and their numbers as CSV files."""
