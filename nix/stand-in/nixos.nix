# The configuration of a NixOS that has these modules, as far as nix/module touches one.
{ system }:
modules:
let
  lib = import ./lib.nix;
in
(lib.evalModules {
  specialArgs = {
    inherit lib;
    pkgs = import ./. { inherit system; };
  };
  modules = modules ++ [ ./nixos-options.nix ];
}).config
