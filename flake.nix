# Thin on purpose: nix/default.nix is the definition, also for those who do not use flakes.
{
  description = "Celery on PostgreSQL alone: one program, a Python package, a dev shell and checks from one definition";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { nixpkgs, ... }:
    let
      eachSystem =
        choose:
        nixpkgs.lib.genAttrs [
          "x86_64-linux"
          "aarch64-linux"
          "aarch64-darwin"
        ] (system: choose (import ./nix { pkgs = nixpkgs.legacyPackages.${system}; }));

      app = package: {
        type = "app";
        program = "${package}/bin/${package.meta.mainProgram}";
        meta = { inherit (package.meta) description; };
      };
    in
    {
      packages = eachSystem (project: project.packages);

      apps = eachSystem (project: {
        default = app project.skeldir;
        skeldir = app project.skeldir;
        worker = app project.worker;
        migrate = app project.migrate;
        with-postgres = app project.with-postgres;
      });

      devShells = eachSystem (project: {
        default = project.shell;
      });

      nixosModules = rec {
        default = celery-postgres;
        celery-postgres = import ./nix/module;
      };

      legacyPackages = eachSystem (project: {
        inherit (project) image mkImage nixosTests;
      });

      checks = eachSystem (project: project.checks);

      formatter = eachSystem (project: project.formatter);

      overlays.default = import ./nix/overlay.nix;

      lib = {
        mkWorker = import ./nix/mk-worker.nix;
      };
    };
}
