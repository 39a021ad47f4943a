"""Signs of life of a run: live on a terminal, as plain lines in a pipe, as JSON for machines."""
