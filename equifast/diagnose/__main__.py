"""`python -m equifast.diagnose`."""

import sys

from .arguments import main

sys.exit(main())
