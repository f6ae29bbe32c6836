"""The web page: try a model on a video, in each of its forms."""
