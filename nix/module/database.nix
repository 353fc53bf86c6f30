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
  inherit (import ../. { inherit pkgs; }) postgresql;
  client = if createLocally then config.services.postgresql.package else postgresql;

  once = {
    Type = "oneshot";
    RemainAfterExit = true;
    Restart = "on-failure";
    RestartSec = 5;
  };
  # psql would read a password from the terminal, and somebody's .psqlrc.
  psql = "psql --no-psqlrc --no-password --quiet --set ON_ERROR_STOP=1";
  grant = ''${psql} --file ${cfg.roles} "$DATABASE_URL"'';
  withRoles = createLocally || cfg.database.adminUrlFile != null;
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
        programs = [ client ];
        lines = ''
          ${grant}
        ''
        + lib.optionalString createLocally ''
          ${psql} --set worker=${lib.escapeShellArgs [ cfg.user ]} \
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
        programs = [ client ];
        lines = ''
          ${lib.escapeShellArgs cfg.migrate}
        ''
        # Only the owner may grant the use of a new table.
        + lib.optionalString withRoles ''
          ${grant}
        '';
        serviceConfig = once;
        unit.wantedBy = [ "celery.target" ];
      });
    };
  };
}
