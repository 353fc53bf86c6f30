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

  stdenv.hostPlatform.isDarwin = builtins.match ".*-darwin" system != null;

  runCommand =
    name: attributes: script:
    attributes.passthru or { }
    // derive name (
      removeAttrs attributes [
        "meta"
        "nativeBuildInputs"
        "passthru"
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
      passthru ? { },
    }:
    passthru
    //
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

  mkShellNoCC =
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
    sitePackages = "lib/python/site-packages";
    pkgs =
      # In no lock: with the pin alone it is seen whether these two fit.
      builtins.mapAttrs (pname: version: { inherit pname version; }) (
        {
          hatchling = "not here";
          opentelemetry-exporter-otlp-proto-http = "not here";
        }
        // machine.python.packages
      )
      // {
        callPackage =
          path: arguments:
          let
            function = if builtins.isFunction path then path else import path;
            scope = python313.pkgs // {
              inherit lib writeShellApplication;
            };
          in
          function (builtins.intersectAttrs (builtins.functionArgs function) scope // arguments);
        toPythonModule = derivation: { version = "ours"; } // derivation;
        inherit buildPythonPackage;
      };
    # All that was installed, not the chosen alone; but each of those must be there. What we built comes besides.
    withPackages =
      choose:
      let
        chosen = choose python313.pkgs;
        built = builtins.filter (each: each ? outPath) chosen;
      in
      builtins.deepSeq (map (each: each.version) chosen) (
        if built == [ ] then package "python" else pythonWith built
      );
  };

  # The wheel's content without a wheel: its modules, and the metadata that Celery reads. The repository's own tests
  # build the wheel.
  buildPythonPackage =
    attributes:
    {
      inherit (attributes) pname version;
    }
    //
      derive "python-${attributes.pname}-${attributes.version}"
        {
          inherit (attributes) src version;
          PATH = binPath [ (package "python") ];
          PYTHONDONTWRITEBYTECODE = "1";
          modules = builtins.concatStringsSep ", " attributes.pythonImportsCheck;
          needed = builtins.deepSeq (map (each: each.version) (
            attributes.build-system ++ attributes.dependencies
          )) "";
        }
        attributes.meta
        ''
          site="$out/${python313.sitePackages}"
          mkdir -p "$site"
          cp -r "$src"/src/* "$site"
          python ${./metadata.py} "$src/pyproject.toml" "$version" "$site"
          PYTHONPATH="$site" python -c "import $modules"
        '';

  # A virtual environment around that of the machine, with what was built.
  pythonWith =
    built:
    derive "python-env"
      {
        PATH = binPath [ (package "python") ];
        sites = map (each: "${each}/${python313.sitePackages}") built;
      }
      { }
      ''
        machine=${package "python"}
        mkdir -p "$out/bin"
        cp "$machine/pyvenv.cfg" "$out"
        for program in "$machine"/bin/*; do
          case $(head -c 2 "$program") in
            '#!')
              sed "1s|^#!.*/python.*|#!$out/bin/python|" "$program" > "$out/bin/''${program##*/}"
              chmod +x "$out/bin/''${program##*/}"
              ;;
            *) cp -P "$program" "$out/bin" ;;
          esac
        done
        ln -sf "$(readlink -f "$machine/bin/python")" "$out/bin/python"
        for folder in "$machine"/lib/python3*; do
          mkdir -p "$out/lib/''${folder##*/}/site-packages"
          for site in "$folder/site-packages" $sites; do
            echo "import site; site.addsitedir('$site')"
          done > "$out/lib/''${folder##*/}/site-packages/stand-in.pth"
        done
        "$out/bin/python" -c "import celery"
      '';

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
  coreutils = {
    outPath = "/usr";
  };

  # The configuration of an image, with the store paths that it needs; not the image.
  dockerTools.caCertificates = runCommand "ca-certificates" { } ''mkdir "$out"'';
  dockerTools.streamLayeredImage =
    attributes:
    runCommand attributes.name {
      passAsFile = [ "image" ];
      image = builtins.toJSON attributes;
    } ''cp "$imagePath" "$out"''
    // {
      inherit attributes;
    };

  # The machines of a test, evaluated; to run them takes virtual machines.
  testers.runNixOSTest =
    test:
    runCommand test.name { } ''
      echo "stand-in: the test ${test.name} needs virtual machines, and the nixpkgs of flake.lock" >&2
      exit 1
    ''
    // {
      inherit test;
      nodes = builtins.mapAttrs (
        _: machine: import ./nixos.nix { inherit system; } [ machine ]
      ) test.nodes;
    };
}
