"""Celery's command line, with the working directory last on the path.

Celery puts it first while it loads an application, and then a folder ``app`` that happens to be there is taken for
ours.  It leaves a path alone that has the working directory already, so ``-I my_tasks`` still finds what lies there.
"""

import os
import sys

from celery.__main__ import main

if __name__ == "__main__":
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    sys.argv[0] = "celery"  # the name in its messages, and by which the application knows it
    main()
