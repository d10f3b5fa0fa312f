"""Single operations, one file for each."""
