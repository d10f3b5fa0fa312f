"""Canonicalizes whole data sets: the command `equifast canonicalize` (docs/many_machines.md).

It needs Pillow and tqdm, ``pip install 'equifast[data]'``, so these are imported when the command runs.
"""
