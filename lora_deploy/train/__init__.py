"""Training: from labelled clips and a base to a RUN folder."""
