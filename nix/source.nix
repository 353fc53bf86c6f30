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

  relativeTo = path: builtins.substring (builtins.stringLength top + 1) (-1) path;

  # The files that are wanted, and the folders with one of them: git has no others, but leaves behind a folder whose
  # last file it removes if that holds a cache.
  keeping =
    isWanted:
    let
      keeps =
        relative: type:
        !isCache relative
        && (
          if type == "directory" then
            let
              below = builtins.readDir (root + "/${relative}");
            in
            builtins.any (each: keeps "${relative}/${each}" below.${each}) (builtins.attrNames below)
          else
            isWanted relative
        );
    in
    builtins.path {
      inherit name;
      path = root;
      filter = path: type: keeps (relativeTo path) type;
    };
in
{
  source =
    names:
    keeping (
      relative:
      builtins.elem relative names || builtins.elem (builtins.head (builtins.split "/" relative)) names
    );

  filesEnding =
    endings:
    let
      pattern = ".*(${builtins.concatStringsSep "|" endings})";
    in
    keeping (relative: builtins.match pattern relative != null);
}
