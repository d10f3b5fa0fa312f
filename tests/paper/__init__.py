"""Tests of `examples/paper`."""
