"""Corrections by a person: which parts of images help most, and how corrected labels become training data."""
