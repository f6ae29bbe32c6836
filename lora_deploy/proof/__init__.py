"""What is proved of a bundle's forms, and how: real clips through each of them; no PyTorch here."""
