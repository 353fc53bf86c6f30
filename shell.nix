# For nix-shell; the flake's dev shell is the same derivation.
(import ./nix { }).shell
