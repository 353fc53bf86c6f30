# The one definition of Python, PostgreSQL and packages. The flake, nix-build, nix-shell, Replit and CI take it from
# here; what runs is the project's own Python code (`environment/`), for which Nix only provides PATH.
{
  system ? builtins.currentSystem,
  nixpkgs ? import ./pin.nix,
  pkgs ? import nixpkgs {
    inherit system;
    config = { };
    overlays = [ ];
  },
}:
rec {
  # Whatever else must repeat these two versions is held to these lines by a test.
  python = pkgs.python313;
  postgresql = pkgs.postgresql_16;

  # For people, checks and Replit: what the worker needs, and what its tests need.
  pythonEnv = python.withPackages (requirements [ "test" ]);

  inProduction = requirements [ "otel" ];

  requirements =
    extras:
    import ./python-packages.nix {
      inherit (pkgs) lib;
      inherit extras;
      pyproject = ../pyproject.toml;
    };

  # Found by their names on PATH. macOS keeps its ps out of a build's PATH, and `environment/` asks it for
  # processes where there is no /proc.
  programs = [
    postgresql
  ]
  ++ (if pkgs.stdenv.hostPlatform.isDarwin then [ pkgs.ps ] else [ ]);

  tools = [ pythonEnv ] ++ programs;

  skeldir = import ./program.nix {
    inherit pkgs python source;
    requirements = inProduction;
    tools = programs;
  };

  worker = word {
    name = "worker";
    description = "Migrate the database (a private one unless DATABASE_URL is set) and run the worker on it";
  };

  migrate = word {
    name = "migrate";
    description = "Bring the database to the newest migration";
  };

  with-postgres = word {
    name = "with-postgres";
    words = "run --temporary";
    description = "Run a command with DATABASE_URL naming a fresh PostgreSQL that is gone afterwards";
  };

  # For other projects; with the overlay it is in every python3Packages.
  celery-postgres =
    python.pkgs.celery-postgres or (python.pkgs.callPackage ./celery-postgres.nix { });

  mkWorker = import ./mk-worker.nix;

  shell = import ./shell.nix { inherit pkgs pythonEnv tools; };

  formatter = pkgs.nixfmt-tree;

  # What people install or build. `nix flake check` builds all of it.
  packages = {
    default = skeldir;
    inherit
      celery-postgres
      migrate
      skeldir
      with-postgres
      worker
      ;
  };

  application = import ./application.nix {
    python = python.withPackages inProduction;
    inherit source;
  };

  mkImage = import ./image.nix { inherit pkgs; };

  image = mkImage (application // { name = "celery-postgres"; });

  # Not among the checks: they take virtual machines, so `nix build .#nixosTests.celery-postgres` where KVM is.
  nixosTests.celery-postgres = pkgs.testers.runNixOSTest (
    import ./vm-test.nix { inherit celery-postgres python source; }
  );

  checks = removeAttrs packages [ "default" ] // {
    inherit shell;
    celery-foundation = import ./checks/celery-foundation.nix { inherit pkgs source tools; };
    format = import ./checks/format.nix { inherit pkgs filesEnding; };
    mk-worker = import ./checks/mk-worker.nix {
      inherit
        mkWorker
        pkgs
        python
        skeldir
        source
        ;
    };
    program = import ./checks/program.nix { inherit pkgs skeldir with-postgres; };
  };

  word = import ./word.nix { inherit pkgs skeldir; };

  inherit (import ./source.nix { root = ../.; }) filesEnding source;
}
