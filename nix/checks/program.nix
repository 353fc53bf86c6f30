# The installed program, in an empty home and an empty folder: what it is called, where its state lies, and what it does
# with a PostgreSQL of its own.
{
  pkgs,
  skeldir,
  with-postgres,
}:
pkgs.runCommand "program"
  {
    nativeBuildInputs = [
      skeldir
      with-postgres
    ];
    __darwinAllowLocalNetworking = true;
    meta.description = "The installed program: help, state, migrations, queues, a private PostgreSQL";
  }
  ''
    set -o pipefail
    mkdir home empty "$out"
    export HOME=$PWD/home
    mkdir own
    printf '#!%s\necho the Python of the project\n' "$(command -v bash)" > own/python
    chmod +x own/python
    cd empty
    echo DATABASE_URL=postgresql://nowhere.invalid/elses > .env
    {
      skeldir help
      skeldir status
      skeldir migrate
      skeldir psql --no-psqlrc --tuples-only --command 'SELECT version()'
      skeldir queues --json
      skeldir-with-postgres -- sh -c 'skeldir migrate && skeldir keys list 00000000-0000-0000-0000-000000000001'
      PATH=$PWD/../own:$PATH skeldir-with-postgres -- python
    } 2>&1 | tee "$out/log"
    grep --quiet '^the Python of the project$' "$out/log"
    # The worker and the HTTP front, used by two tenants, and who listens: only Linux' sandbox has a network of its own,
    # where no other program's port comes and goes. .ci/nix does the same outside.
    if [ "$NIX_BUILD_TOP" = /build ]; then
      skeldir validate > "$out/validation.log" 2>&1 || { cat "$out/validation.log"; false; }
      echo "validate: passed"
    fi
    grep --quiet '^Usage: skeldir COMMAND' "$out/log"
    [ "$(ls -A)" = .env ]
    [ -d "$HOME/.local/state/skeldir/postgres" ] || ls -d /var/lib/skeldir/skeldir-*
  ''
