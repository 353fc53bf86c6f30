# In nixpkgs' place on a machine that reaches no Nix cache; see default.nix.
{
  description = "The few names that nix/ takes from nixpkgs, made from this machine's own tools";

  outputs = _: { lib = import ./lib.nix; };
}
