"""The web page: classify a clip with any form of a model, in a browser."""
