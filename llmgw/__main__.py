"""``python -m llmgw`` is the command ``llmgw``."""

from llmgw.apps.cli import main

main(prog_name="llmgw")
