# For nix-build: `nix-build` makes the program, `nix-build -A worker` another package of the flake, `nix-build -A checks`
# its checks.
{
  system ? builtins.currentSystem,
  ...
}@arguments:
let
  project = import ./nix ({ inherit system; } // arguments);
in
project.skeldir // project.packages // { inherit (project) checks; }
