"""How fast each form of a model is on this computer: all of them in one run, turn by turn."""
