"""From video files to frames: what may be opened, which frames, and how they become pixels."""
