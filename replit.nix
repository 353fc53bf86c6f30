{ pkgs }:
{
  deps = [
    (import ./nix { }).pythonEnv
    (import ./nix { }).postgresql
  ];
}
