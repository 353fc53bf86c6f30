# The dev shell: everything on PATH, and ./dev without a virtual environment.
{
  pkgs,
  pythonEnv,
  tools,
}:
pkgs.mkShellNoCC {
  packages = tools ++ [ pkgs.ruff ];

  SKELDIR_PYTHON = "${pythonEnv}/bin/python";

  # So that `celery -A app.celery_app.celery_app`, `alembic` and `pytest` find the modules from any folder.
  shellHook = ''
    skeldir_root=$PWD
    while [ ! -e "$skeldir_root/environment/cli.py" ] && [ "$skeldir_root" != / ]; do
      skeldir_root=$(dirname "$skeldir_root")
    done
    if [ "$skeldir_root" != / ]; then
      export PYTHONPATH="$skeldir_root/packages/celery-postgres/src:$skeldir_root/backend:$skeldir_root"
    fi
    unset skeldir_root
  '';
}
