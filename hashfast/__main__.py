import sys

from hashfast.cli import main

sys.exit(main())
