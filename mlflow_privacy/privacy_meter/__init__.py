"""Privacy Meter's files, both ways."""
