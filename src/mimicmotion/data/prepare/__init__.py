"""Turn videos into training clips: analysis, scenes, filters, duplicates and the report."""
