# Some files of the checkout as one store path: `source [ "backend" "pyproject.toml" ]`.
#
# The path depends on their content alone. So the flake, whose tree git has filtered, and `import ./nix { }`,
# whose tree also holds caches, give the same derivations, and a changed README rebuilds nothing.
names:
let
  root = toString ../.;
in
builtins.path {
  name = "skeldir-source";
  path = ../.;
  filter =
    path: type:
    let
      base = baseNameOf path;
      relative = builtins.substring (builtins.stringLength root + 1) (-1) path;
      top = builtins.head (builtins.split "/" relative);
      isCache = base == "__pycache__" || builtins.match "\\..*|.*\\.pyc|machine\\.json" base != null;
    in
    builtins.elem relative names || builtins.elem top names && !isCache;
}
