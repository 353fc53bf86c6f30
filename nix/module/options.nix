{
  config,
  lib,
  pkgs,
  ...
}:
let
  types = lib.types;
  cfg = config.services.celery-postgres;

  ports = builtins.filter (port: port != null) (
    map (worker: worker.metricsPort) (builtins.attrValues cfg.workers)
  );

  environment = lib.mkOption {
    type = types.attrsOf types.str;
    default = { };
    description = "Environment variables. They are in the world-readable store: no secrets.";
  };
  environmentFiles = lib.mkOption {
    type = types.listOf types.path;
    default = [ ];
    example = [ "/run/secrets/mine.env" ];
    description = "Files with one NAME=value per line, which systemd reads as root. The place for an application's secrets.";
  };
  secret =
    description:
    lib.mkOption {
      type = types.nullOr types.path;
      default = null;
      inherit description;
    };
  words =
    default: description:
    lib.mkOption {
      type = types.listOf types.str;
      inherit default description;
    };
in
{
  options.services.celery-postgres = {
    enable = lib.mkEnableOption "Celery workers with PostgreSQL as broker and result store";

    app = lib.mkOption {
      type = types.str;
      example = "mine.celery";
      description = "The Celery application, as for `celery --app`.";
    };
    python = lib.mkOption {
      type = types.package;
      example = lib.literalExpression "pkgs.python313.withPackages (packages: [ packages.celery-postgres ])";
      description = "A Python environment with Celery, celery-postgres, psycopg2 and what the application needs.";
    };
    pythonPath = lib.mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = lib.literalExpression ''[ "''${./.}" ]'';
      description = "Folders of Python modules that are not installed into `python`.";
    };
    migrate = words [
      "python"
      "-m"
      "celery_postgres"
      "migrate"
    ] "The command that brings the tables up to date, before workers start. Empty: none.";
    roles = lib.mkOption {
      type = types.nullOr types.path;
      default =
        pkgs.runCommand "roles.sql"
          {
            nativeBuildInputs = [ cfg.python ];
            PYTHONPATH = builtins.concatStringsSep ":" cfg.pythonPath;
          }
          ''
            python -m celery_postgres roles > "$out"
          '';
      defaultText = lib.literalExpression "what `python -m celery_postgres roles` prints";
      description = ''
        The SQL of the roles. It is run as an administrator before the migrations, and as the owner of the tables after them.
        null: the roles of the database are others, and you grant them their rights after each migration.
      '';
    };
    user = lib.mkOption {
      type = types.str;
      default = "celery";
      description = "The account of workers, beat and front; also their login in a local database.";
    };
    migrationUser = lib.mkOption {
      type = types.str;
      default = "celery-migrator";
      description = "The account of the migrations; also the login that owns the tables of a local database.";
    };
    logLevel = lib.mkOption {
      type = types.enum [
        "DEBUG"
        "INFO"
        "WARNING"
        "ERROR"
        "CRITICAL"
      ];
      default = "INFO";
      description = "The least severe level that workers and beat log.";
    };
    inherit environment environmentFiles;

    database = {
      createLocally = lib.mkOption {
        type = types.bool;
        default = false;
        description = "Whether to run PostgreSQL on this machine, with a database, the roles and two logins without passwords.";
      };
      name = lib.mkOption {
        type = types.str;
        default = "celery";
        description = "The name of the local database.";
      };
      urlFile = secret ''
        A file with the URL of a remote database: `postgresql://login:password@host/database`. systemd reads it as root, and
        hands it to the units as a credential.
      '';
      migrationUrlFile = secret "The same for the login that owns the tables; by default `urlFile`.";
      adminUrlFile = secret ''
        The same for a login that may create roles. With it the roles are made in a remote database too: `celery_worker` and
        the others (`roles`). Their members, the logins, are yours to make.
      '';
    };

    workers = lib.mkOption {
      default = { };
      description = "Workers by name. Each is the unit `celery-worker-NAME`.";
      example = {
        mail = {
          pool = "threads";
          concurrency = 8;
          queues = [ "mail" ];
        };
        reports = {
          pool = "prefork";
          concurrency = 2;
          queues = [ "reports" ];
          longestTask = 3600;
        };
      };
      type = types.attrsOf (
        types.submodule {
          options = {
            pool = lib.mkOption {
              type = types.enum [
                "solo"
                "threads"
                "prefork"
                "gevent"
                "eventlet"
              ];
              default = "prefork";
              description = "Where tasks run: `celery worker --pool`.";
            };
            concurrency = lib.mkOption {
              type = types.nullOr types.ints.positive;
              default = null;
              description = "How many tasks run at a time; null: Celery's default, one per processor.";
            };
            queues = lib.mkOption {
              type = types.listOf types.str;
              default = [ ];
              description = "The queues that it consumes; empty: those of the application.";
            };
            longestTask = lib.mkOption {
              type = types.ints.positive;
              default = 585;
              description = ''
                Seconds that a stop waits for running tasks. 15 s later the worker is killed, and its tasks run again on
                another one (with late acknowledgement). A switch to a new configuration waits as long.
              '';
            };
            metricsPort = lib.mkOption {
              type = types.nullOr types.port;
              default = null;
              example = 9540;
              description = "The port of its metrics, in CELERY_METRICS_PORT; null: the application's default.";
            };
            extraArguments = words [ ] "Further arguments of `celery worker`.";
            inherit environment environmentFiles;
          };
        }
      );
    };

    beat.enable = lib.mkEnableOption "a beat. Several machines may each run one: every due entry is sent once";

    console = {
      enable = lib.mkEnableOption "the console, a web page of queues, tasks, dead letters and workers";
      address = lib.mkOption {
        type = types.str;
        default = "127.0.0.1";
        description = "The address on which it listens. On another one than a loopback address it needs keys.";
      };
      port = lib.mkOption {
        type = types.port;
        default = 8787;
        description = "Its port.";
      };
      allowedHosts = words [ ] "The names by which browsers reach it, besides localhost and addresses.";
      # Wrong keys are limited for each address.
      trustedProxies = words [ ] "Proxies, or networks of them, whose X-Forwarded-For counts.";
      # CELERY_CONSOLE_KEYS, which hold no secret, and CELERY_CONSOLE_SECRET.
      inherit environment environmentFiles;
    };

    front = {
      enable = lib.mkEnableOption "the HTTP front of the application";
      command = words [ ] "Its command, without address and port: those follow as `--host` and `--port`.";
      address = lib.mkOption {
        type = types.str;
        default = "127.0.0.1";
        description = "The address on which it listens.";
      };
      port = lib.mkOption {
        type = types.port;
        default = 8000;
        description = "Its port.";
      };
      inherit environment environmentFiles;
    };

    metrics.scrape = lib.mkOption {
      type = types.bool;
      default = false;
      description = "Whether the Prometheus of this machine reads the workers that have a `metricsPort`, with the alert rules.";
    };
  };

  config.assertions = lib.mkIf cfg.enable [
    {
      assertion = cfg.database.createLocally != (cfg.database.urlFile != null);
      message = "services.celery-postgres.database: set one of createLocally and urlFile.";
    }
    {
      assertion =
        cfg.database.createLocally
        -> cfg.database.migrationUrlFile == null && cfg.database.adminUrlFile == null;
      message = "services.celery-postgres.database: migrationUrlFile and adminUrlFile are for a remote database.";
    }
    {
      assertion = cfg.database.createLocally -> cfg.roles != null;
      message = "services.celery-postgres.roles: a local database needs the roles; null is for a remote one.";
    }
    {
      assertion = cfg.database.createLocally -> cfg.user != cfg.migrationUser;
      message = "services.celery-postgres: user and migrationUser are one account, and workers would own the tables.";
    }
    {
      # In the URL and in scripts as it is.
      assertion = builtins.match "[A-Za-z0-9_.-]+" cfg.database.name != null;
      message = "services.celery-postgres.database.name: letters, digits, dots, dashes and underscores.";
    }
    {
      # Celery separates the names in --queues with commas.
      assertion = builtins.all (
        worker: builtins.all (queue: builtins.match "[^,]+" queue != null) worker.queues
      ) (builtins.attrValues cfg.workers);
      message = "services.celery-postgres.workers: the name of a queue is empty or has a comma.";
    }
    {
      assertion =
        cfg.console.enable
        && builtins.match "127\\..*|::1|localhost" cfg.console.address == null
        && !(cfg.environment // cfg.console.environment) ? CELERY_CONSOLE_KEYS
        -> cfg.environmentFiles ++ cfg.console.environmentFiles != [ ];
      message = "services.celery-postgres.console: on another than a loopback address it needs CELERY_CONSOLE_KEYS.";
    }
    {
      assertion = cfg.metrics.scrape -> ports != [ ];
      message = "services.celery-postgres.metrics: no worker has a metricsPort.";
    }
    {
      assertion = cfg.front.enable -> cfg.front.command != [ ];
      message = "services.celery-postgres.front: the application's front has no command.";
    }
    {
      assertion = builtins.all (name: builtins.match "[A-Za-z0-9._-]+" name != null) (
        builtins.attrNames cfg.workers
      );
      message = "services.celery-postgres.workers: a name has letters, digits, dots, dashes and underscores.";
    }
    {
      assertion =
        let
          all =
            ports
            ++ lib.optional cfg.console.enable cfg.console.port
            ++ lib.optional cfg.front.enable cfg.front.port;
        in
        builtins.length all == builtins.length (lib.unique all);
      message = "services.celery-postgres: the metricsPorts of workers, and the ports of console and front, are all different.";
    }
  ];
}
