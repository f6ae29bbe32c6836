"""The HTTP service: one model behind a queue, for programs; no page, and no PyTorch for a bundle."""
