"""The readers: one file, member of an archive, or data set -> documents."""
