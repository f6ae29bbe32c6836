"""Ways to train, compared on one's own clips and computer: the user guide's table from real runs."""
