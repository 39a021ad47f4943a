"""The experimenter's side: experiment files, plans, runners, results and the command line."""
