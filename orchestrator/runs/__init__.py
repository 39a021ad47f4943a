"""The course of a run, whatever runs it. Never imports ``orchestrator.runtimes``."""
