# Two machines for test_booted.py, evaluated with the stand-in; their launchers are built.
let
  system = "x86_64-linux";
  pkgs = import ../../nix/stand-in { inherit system; };
  nixos = import ../../nix/stand-in/nixos.nix { inherit system; };
  project = import ../../nix { inherit pkgs system; };
  workers = {
    one = {
      concurrency = 2;
      longestTask = 30;
    };
    two = {
      pool = "threads";
      concurrency = 4;
      longestTask = 30;
    };
  };

  machines = {
    # The application of this repository, with the database on the same machine.
    local = {
      services.celery-postgres = project.application // {
        enable = true;
        database.createLocally = true;
        environment.ENVIRONMENT = "production";
        workers = builtins.mapAttrs (
          name: worker: worker // { metricsPort = if name == "one" then 9540 else 9541; }
        ) workers;
        beat.enable = true;
        front = project.application.front // {
          enable = true;
        };
      };
    };

    # Another application, and a database that it reaches over TCP with passwords.
    remote.services.celery-postgres = {
      enable = true;
      app = "mine";
      python = project.python.withPackages (_: [ project.celery-postgres ]);
      pythonPath = [ "${project.source [ "examples" ]}/examples/deployment" ];
      database = {
        urlFile = "/secrets/worker";
        migrationUrlFile = "/secrets/migrator";
        adminUrlFile = "/secrets/admin";
      };
      inherit workers;
      beat.enable = true;
    };
  };
in
builtins.mapAttrs (
  name: machine:
  let
    config = nixos [
      ../../nix/module
      machine
    ];
  in
  pkgs.runCommand "machine-${name}" {
    passAsFile = [ "described" ];
    described = builtins.toJSON {
      inherit (config.systemd) services;
      python = "${config.services.celery-postgres.python}";
    };
  } ''cp "$describedPath" "$out"''
) machines
