"""Base models, the adapter on them, and the proof that the adapter is alive."""
