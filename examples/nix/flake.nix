# Another project: its worker, and a shell with the same Python.
{
  inputs.celery-postgres.url = "path:../.."; # the address of this repository
  inputs.nixpkgs.follows = "celery-postgres/nixpkgs";

  outputs =
    { celery-postgres, nixpkgs, ... }:
    let
      each =
        choose:
        nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" "aarch64-darwin" ] (
          system: choose nixpkgs.legacyPackages.${system}
        );
      worker =
        pkgs:
        celery-postgres.lib.mkWorker {
          python = pkgs.python313;
          name = "shop-worker";
          app = "shop";
          source = ./.;
          packages = packages: [ packages.rich ];
          pool = "threads";
          concurrency = 8;
        };
    in
    {
      packages = each (pkgs: {
        default = worker pkgs;
      });

      devShells = each (pkgs: {
        default = pkgs.mkShellNoCC { packages = [ (worker pkgs).environment ]; };
      });
    };
}
