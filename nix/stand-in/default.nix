# Stands in for nixpkgs where no Nix cache can be reached: exactly the names that our Nix code takes from it
# (nix/packages.txt), made from tools that this machine has. It proves our expressions and scripts, which run for
# real; it proves nothing about the packages of the pin. Nothing in our Nix code knows about it.
#
# machine.json, which prepare.py writes and git ignores, says where the tools are and of what version they are.
{ system, ... }:
let
  file = ./machine.json;
  machine =
    if builtins.pathExists file then
      builtins.fromJSON (builtins.readFile file)
    else
      throw "nix/stand-in/machine.json is missing; nix/stand-in/prepare.py makes it";

  # A program of the machine in the place of a package: a folder with bin/, its name and its version.
  package = name: {
    inherit name;
    inherit (machine.${name}) version;
    outPath = machine.${name}.folder;
  };

  binPath =
    packages: builtins.concatStringsSep ":" (map (each: "${each}/bin") packages ++ [ machine.path ]);

  # `nix develop` insists on a builder that is called bash.
  derive =
    name: attributes: meta: script:
    derivation (
      attributes
      // {
        inherit name system;
        outputs = [ "out" ]; # nix develop asks for them by this variable
        builder = machine.bash;
        args = [
          "-eu"
          "-c"
          # Bash becomes the last command, coreutils close their output before they exit, and Nix kills a builder
          # whose output is closed: so the last command is bash's own.
          "${script}\n:"
        ];
      }
    )
    // {
      inherit meta;
    };
in
rec {
  lib = import ./lib.nix;

  runCommand =
    name: attributes: script:
    derive name (
      removeAttrs attributes [
        "meta"
        "nativeBuildInputs"
      ]
      // {
        PATH = binPath (attributes.nativeBuildInputs or [ ]);
      }
    ) (attributes.meta or { }) script;

  writeShellApplication =
    {
      name,
      text,
      runtimeInputs,
      meta,
    }:
    derive name
      {
        PATH = machine.path;
        passAsFile = [ "program" ];
        program = ''
          #!${machine.bash}
          set -o errexit
          set -o nounset
          set -o pipefail
          export PATH="${binPath runtimeInputs}:$PATH"
          ${text}
        '';
      }
      meta
      ''
        mkdir -p "$out/bin"
        cp "$programPath" "$out/bin/${name}"
        chmod +x "$out/bin/${name}"
        ${machine.bash} -n "$out/bin/${name}"
      '';

  mkShell =
    attributes:
    derive "nix-shell" (
      removeAttrs attributes [ "packages" ]
      // {
        PATH = binPath attributes.packages;
      }
    ) { } ''echo "a shell, not a package" > "$out"'';

  # Whatever Python the machine has; `version` says which.
  python313 = {
    inherit (machine.python) version;
    pkgs = builtins.mapAttrs (pname: version: { inherit pname version; }) machine.python.packages;
    # All that was installed, not the chosen alone; but each of those must be there.
    withPackages =
      choose: builtins.deepSeq (map (each: each.version) (choose python313.pkgs)) (package "python");
  };

  postgresql_16 = package "postgresql";
  ruff = package "ruff";
  nixfmt = package "nixfmt";
  nixfmt-tree = runCommand "nixfmt-tree" { meta.mainProgram = "treefmt"; } ''
    mkdir -p "$out/bin"
    printf '%s\n' '#!${machine.bash}' 'cd "$(git rev-parse --show-toplevel)"' \
      'git ls-files -z "*.nix" | xargs -0 ${nixfmt}/bin/nixfmt "$@"' > "$out/bin/treefmt"
    chmod +x "$out/bin/treefmt"
  '';
  ps = {
    outPath = "/";
  };
}
