"""What stands in a corpus once: exact and near duplicates, repeated paragraphs, and texts that belong to an evaluation."""
