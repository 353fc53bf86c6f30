# The installed program with its first words: `nix run .#worker` is `skeldir worker`.
{ pkgs, skeldir }:
{
  name,
  words ? name,
  description,
}:
pkgs.writeShellApplication {
  name = "skeldir-${name}";
  runtimeInputs = [ ];
  text = ''
    exec ${skeldir}/bin/skeldir ${words} "$@"
  '';
  meta = {
    inherit description;
    inherit (skeldir.meta) license;
    mainProgram = "skeldir-${name}";
  };
}
