# Workers, beat and front.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.celery-postgres;
  words = import ../words.nix;
  unit = import ./unit.nix { inherit lib pkgs cfg; };

  # They start after the first attempt to migrate, and do not depend on its success: with a database that is down at boot,
  # both wait for it. A worker that finds tables missing exits, and is started again.
  process =
    command: stopSeconds: attributes:
    unit (
      attributes
      // {
        inherit (cfg.database) urlFile;
        lines = "exec ${lib.escapeShellArgs command}\n";
        after = lib.optional (cfg.migrate != [ ]) "celery-migrate.service";
        serviceConfig = {
          # TERM for the main process alone: it lets its children end their tasks. The default sends it to the children
          # too, which ends their tasks at once.
          KillMode = "mixed";
          # A child that takes too much memory is one lost task, which runs again. The default stops the whole worker.
          OOMPolicy = "continue";
          Restart = "always";
          RestartSec = 2;
          TimeoutStopSec = stopSeconds;
        };
        unit = {
          partOf = [ "celery.target" ];
          wantedBy = [ "celery.target" ];
          unitConfig.StartLimitIntervalSec = 0;
        };
      }
    );

  worker =
    name: options:
    process
      (words.worker {
        inherit (cfg) app logLevel;
        inherit (options)
          pool
          concurrency
          queues
          extraArguments
          ;
        # Two workers with one name would take each other's remote control.
        hostname = "${name}@%h";
      })
      (options.longestTask + words.secondsAfterTheLongestTask)
      {
        name = "celery-worker-${name}";
        description = "Celery worker ${name}";
        inherit (options) environmentFiles;
        environment =
          lib.optionalAttrs (options.metricsPort != null) {
            CELERY_METRICS_PORT = toString options.metricsPort;
          }
          // options.environment;
      };
in
{
  config = lib.mkIf cfg.enable {
    users.users = lib.mkIf (cfg.user == "celery") {
      celery = {
        isSystemUser = true;
        group = "celery";
      };
    };
    users.groups = lib.mkIf (cfg.user == "celery") { celery = { }; };

    systemd.targets.celery = {
      description = "Celery";
      wantedBy = [ "multi-user.target" ];
    };
    systemd.slices.system-celery.description = "Celery";

    systemd.services = lib.mkMerge [
      (lib.concatMapAttrs (name: options: { "celery-worker-${name}" = worker name options; }) cfg.workers)
      (lib.mkIf cfg.beat.enable {
        celery-beat = process (words.beat { inherit (cfg) app logLevel; }) 30 {
          name = "celery-beat";
          description = "Celery beat";
        };
      })
      (lib.mkIf cfg.console.enable {
        celery-console =
          process
            (words.console {
              inherit (cfg) app;
              inherit (cfg.console)
                address
                port
                allowedHosts
                trustedProxies
                ;
            })
            30
            {
              name = "celery-console";
              description = "Console of the Celery application";
              inherit (cfg.console) environment environmentFiles;
            };
      })
      (lib.mkIf cfg.front.enable {
        celery-front =
          process
            (
              cfg.front.command
              ++ [
                "--host"
                cfg.front.address
                "--port"
                (toString cfg.front.port)
              ]
            )
            30
            {
              name = "celery-front";
              description = "HTTP front of the Celery application";
              inherit (cfg.front) environment environmentFiles;
            };
      })
    ];
  };
}
