"""``python -m bnexp``."""

import sys

from bnexp.cli.main import main

sys.exit(main())
