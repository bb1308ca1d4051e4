"""``python -m sea_agent`` is the command line."""

from sea_agent.cli import main

main()
