# Thin on purpose: nix/default.nix is the definition, also for those who do not use flakes.
{
  description = "Celery on PostgreSQL alone: dev shell, worker and checks from one definition";

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
        ] (system: choose (import ./nix { inherit system nixpkgs; }));

      app = package: {
        type = "app";
        program = "${package}/bin/${package.meta.mainProgram}";
        meta = { inherit (package.meta) description; };
      };
    in
    {
      devShells = eachSystem (project: {
        default = project.shell;
      });

      packages = eachSystem (project: {
        default = project.worker;
        inherit (project) worker;
      });

      apps = eachSystem (project: {
        default = app project.worker;
        worker = app project.worker;
        migrate = app project.migrate;
        with-postgres = app project.with-postgres;
      });

      checks = eachSystem (project: project.checks);

      formatter = eachSystem (project: project.formatter);
    };
}
