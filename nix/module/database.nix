# The local PostgreSQL, the roles, and the migrations.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.celery-postgres;
  inherit (cfg.database) createLocally;
  unit = import ./unit.nix { inherit lib pkgs cfg; };
  once = {
    Type = "oneshot";
    RemainAfterExit = true;
    Restart = "on-failure";
    RestartSec = 5;
  };
  # Not psql: it would show the URL with its password among its arguments, and know no postgresql+psycopg2://.
  grant = "python -m celery_postgres roles --run ${cfg.roles}\n";
  # The workers' URL may be in this variable, which comes before DATABASE_URL.
  alone = "export CELERY_BROKER_URL=\"$DATABASE_URL\"\n";
  withRoles = cfg.roles != null && (createLocally || cfg.database.adminUrlFile != null);
  # Somebody has made the roles who gives migrations a login of their own.
  withGrants = cfg.roles != null && (withRoles || cfg.database.migrationUrlFile != null);
in
{
  config = lib.mkIf cfg.enable {
    services.postgresql = lib.mkIf createLocally {
      enable = true;
      ensureDatabases = [ cfg.database.name ];
    };

    users.users = lib.mkIf (cfg.migrationUser == "celery-migrator") {
      celery-migrator = {
        isSystemUser = true;
        group = "celery-migrator";
      };
    };
    users.groups = lib.mkIf (cfg.migrationUser == "celery-migrator") { celery-migrator = { }; };

    systemd.services = {
      celery-roles = lib.mkIf withRoles (unit {
        name = "celery-roles";
        description = "Roles of Celery on PostgreSQL";
        user = if createLocally then "postgres" else cfg.migrationUser;
        urlFile = cfg.database.adminUrlFile;
        after = lib.optional createLocally "postgresql.target";
        programs = lib.optional createLocally config.services.postgresql.package;
        lines =
          alone
          + grant
          # Without .psqlrc, and without a password from the terminal.
          + lib.optionalString createLocally ''
            psql --no-psqlrc --no-password --quiet --set ON_ERROR_STOP=1 \
              --set worker=${lib.escapeShellArgs [ cfg.user ]} \
              --set migrator=${lib.escapeShellArgs [ cfg.migrationUser ]} \
              --file ${../../ops/postgres/logins.sql} "$DATABASE_URL"
          '';
        serviceConfig = once;
      });

      celery-migrate = lib.mkIf (cfg.migrate != [ ]) (unit {
        name = "celery-migrate";
        description = "Migrations of Celery on PostgreSQL";
        user = cfg.migrationUser;
        urlFile =
          if cfg.database.migrationUrlFile != null then
            cfg.database.migrationUrlFile
          else
            cfg.database.urlFile;
        after =
          lib.optional createLocally "postgresql.target" ++ lib.optional withRoles "celery-roles.service";
        # Only the owner may grant the use of a new table.
        lines =
          alone + "${lib.escapeShellArgs cfg.migrate}\n" + lib.optionalString withGrants grant;
        serviceConfig = once;
        unit.wantedBy = [ "celery.target" ];
      });
    };
  };
}
