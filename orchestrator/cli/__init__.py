"""The command line: ``commands.py`` lists the commands, and each kind of them has a file.

Nothing is imported here: ``python -m orchestrator.cli`` has to look for a stand-in of the testbed's packages first.
"""
