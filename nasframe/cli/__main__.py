"""``python -m nasframe.cli``: the command line, for where the script is not on the path."""

import sys

from nasframe.cli import main

sys.exit(main())
