# Some files of the checkout as one store path: `source [ "backend" "pyproject.toml" ]`, `filesEnding [ ".nix" ]`.
#
# The path depends on their content alone. So the flake, whose tree git has filtered, and `import ./nix { }`,
# whose tree also holds caches, give the same derivations, and a changed README rebuilds nothing.
{
  root,
  name ? "skeldir-source",
}:
let
  top = toString root;

  # What git ignores.
  caches = "\\..*|.*\\.pyc|machine\\.json|__pycache__|node_modules|_build|dist|result(-.*)?";
  isCache = path: builtins.match caches (baseNameOf path) != null;
in
{
  source =
    names:
    builtins.path {
      inherit name;
      path = root;
      filter =
        path: _:
        let
          relative = builtins.substring (builtins.stringLength top + 1) (-1) path;
          first = builtins.head (builtins.split "/" relative);
        in
        builtins.elem relative names || builtins.elem first names && !isCache path;
    };

  filesEnding =
    endings:
    let
      isWanted = path: builtins.match ".*(${builtins.concatStringsSep "|" endings})" path != null;
    in
    builtins.path {
      inherit name;
      path = root;
      filter = path: type: !isCache path && (type == "directory" || isWanted path);
    };
}
