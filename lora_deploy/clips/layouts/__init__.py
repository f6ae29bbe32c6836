"""Labelled data as the field lays it out: each layout a file, found by its own annotations."""
