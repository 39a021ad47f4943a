"""The command line as ``python -m orchestrator.cli``."""

from fragmesh import refuse_shadow

refuse_shadow()  # before anything that a folder of the user's may stand in for

from orchestrator.cli.commands import main  # noqa: E402

main()
