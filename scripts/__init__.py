"""Programs that write what the repository keeps: clips and pages. Each is started by the script beside it."""
