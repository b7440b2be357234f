"""``python -m nasframe``: the command line, if the script ``nasframe`` is not on the path."""

import sys

from nasframe.cli import main

if __name__ == "__main__":
    sys.exit(main())
