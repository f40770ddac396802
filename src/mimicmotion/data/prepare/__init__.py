"""From videos to training clips: analysis, scenes, filters, duplicates and the report."""
