"""Batch inference: any pile of videos in, one row a clip out."""
