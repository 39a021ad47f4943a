"""One runner per runtime; each turns a plan into a run directory."""
