"""Everything one node is: algorithms, their drivers, and learning. Never imports ``orchestrator``."""
