"""The two folders that pass between the stages: RUN (from training) and BUNDLE (from export)."""
