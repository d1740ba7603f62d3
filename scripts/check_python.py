"""Exit with 1, saying why, unless this Python can make environments and build extensions."""

import os
import sys
import sysconfig

if sys.version_info < (3, 11):  # noqa: UP036 (this is what an older Python is told)
    sys.exit("hashfast needs Python 3.11 or later: make PYTHON=/path/to/python3.11")
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    sys.exit("this Python cannot make virtual environments (Debian: python3-venv)")
# torch.compile builds small extensions while it runs.
if not os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit("the headers of this Python are missing (Debian: python3-dev)")
