"""`python -m agent` is the command `limpet`."""

import sys

from agent.cli import main

sys.exit(main())
