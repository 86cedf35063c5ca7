"""``python -m advkern``."""

import sys

from advkern.cli import main

sys.exit(main())
