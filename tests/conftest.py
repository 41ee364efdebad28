"""What all tests have in common."""

import os

for name in ("COLUMNS", "LINES"):
    # GNU readline, which pytest loads, tells child processes of a window of 80 columns where there is no terminal.
    os.environ.pop(name, None)
    os.unsetenv(name)
