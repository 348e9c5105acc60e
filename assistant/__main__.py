"""``python -m assistant`` is ``pathassist``."""

from assistant.cli import main

main()
