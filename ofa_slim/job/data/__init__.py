"""Data files of one's own: read, checked row by row, and split."""
