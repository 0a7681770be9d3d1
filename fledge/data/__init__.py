"""Files -> documents -> unique -> tokens -> shards -> examples -> batches. Nothing here imports torch."""
