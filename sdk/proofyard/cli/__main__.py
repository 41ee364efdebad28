"""`python -m proofyard.cli`, for places where the console script is not on the PATH."""

import sys

from proofyard.cli.app import main

sys.exit(main())
