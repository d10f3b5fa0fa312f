"""Whole passes and steps."""
