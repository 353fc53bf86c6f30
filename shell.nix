# For nix-shell, with the arguments of default.nix; the flake's dev shell is the same derivation.
{
  system ? builtins.currentSystem,
  ...
}@arguments:
(import ./nix ({ inherit system; } // removeAttrs arguments [ "inNixShell" ])).shell
