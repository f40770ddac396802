"""Videos to training clips: analysis, scenes, filters, duplicates, report."""
