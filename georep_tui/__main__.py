"""`python3 -m georep_tui`."""

import sys

from georep_tui.cli import main

sys.exit(main())
