# The installed program: the commands of `environment/` that need no checkout, run from the store.
#
# Its modules are found as ./dev's are, through a .pth file, and its Python comes last on PATH. So what `skeldir run`
# starts has the Python, celery and pytest of its own project, and sees nothing of ours.
{
  pkgs,
  python,
  requirements,
  source,
  tools,
}:
let
  code = source [
    "Procfile"
    "alembic"
    "alembic.ini"
    "backend"
    "environment"
    "packages"
  ];

  modules = python.pkgs.toPythonModule (
    pkgs.runCommand "skeldir-modules" { } ''
      site="$out/${python.sitePackages}"
      mkdir -p "$site"
      printf '%s\n' ${code}/packages/celery-postgres/src ${code}/backend ${code} > "$site/skeldir.pth"
    ''
  );

  pythonEnv = python.withPackages (packages: requirements packages ++ [ modules ]);
in
pkgs.writeShellApplication {
  name = "skeldir";
  runtimeInputs = tools;
  # In a checkout it uses the state and the .env of that, as ./dev does. A single-user Nix lets root write to the
  # store, and byte code must not end up there.
  text = ''
    export SKELDIR_PROGRAM=skeldir SKELDIR_PROJECT="''${SKELDIR_PROJECT:-$PWD}"
    export PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1
    export PATH="$PATH:${pythonEnv}/bin"
    exec ${pythonEnv}/bin/python -E -B -P -m environment.cli "$@"
  '';
  meta = {
    description = "Celery on PostgreSQL alone: workers, the HTTP front, migrations, queues and a private PostgreSQL";
    license = pkgs.lib.licenses.bsd3;
    mainProgram = "skeldir";
  };
}
