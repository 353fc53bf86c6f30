"""``python -m celery_postgres``: the queue tool; ``python -m celery_postgres run -- PROGRAM``: the launcher."""

import sys

if sys.argv[1:2] == ["run"]:
    from celery_postgres.launcher import main

    sys.exit(main(sys.argv[2:]))
else:
    from celery_postgres.tool import cli

    sys.exit(cli.main())
