"""Backends that turn a clip into logits, and the one door to all of them."""
