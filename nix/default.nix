# The one definition of Python, PostgreSQL and packages. The flake, nix-shell, Replit and CI take it from here;
# what runs is the project's own Python code (`environment/`), for which Nix only provides PATH.
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

  pythonEnv = python.withPackages (
    import ./python-packages.nix {
      inherit (pkgs) lib;
      pyproject = ../pyproject.toml;
    }
  );

  # Found by their names on PATH. macOS keeps its ps out of a build's PATH, and `environment/` asks it for
  # processes where there is no /proc.
  tools = [
    pythonEnv
    postgresql
  ]
  ++ (if builtins.match ".*-darwin" system == null then [ ] else [ pkgs.ps ]);

  worker = command {
    name = "skeldir-worker";
    words = "worker";
    description = "Migrate the database (a private one unless DATABASE_URL is set) and run the worker on it";
  };

  migrate = command {
    name = "skeldir-migrate";
    words = "migrate";
    description = "Bring the database to the newest migration";
  };

  with-postgres = command {
    name = "skeldir-with-postgres";
    words = "run --temporary";
    description = "Run a command with DATABASE_URL naming a fresh PostgreSQL that is gone afterwards";
  };

  shell = import ./shell.nix { inherit pkgs pythonEnv tools; };

  checks = {
    celery-foundation = import ./checks/celery-foundation.nix { inherit pkgs source tools; };
    format = import ./checks/format.nix { inherit pkgs source; };
  };

  formatter = pkgs.nixfmt-tree;

  command = import ./command.nix { inherit pkgs source tools; };

  source = import ./source.nix;
}
