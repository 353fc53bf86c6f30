# In nixpkgs' place on a machine that reaches no Nix cache; see default.nix.
{
  description = "The few names that nix/ takes from nixpkgs, made from this machine's own tools";

  outputs =
    _:
    let
      lib = import ./lib.nix;
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
        "aarch64-darwin"
      ] (system: import ./. { inherit system; });
    };
}
