# What pyproject.toml requires (`dependencies` and the named extras), as nixpkgs names it: a function for
# python.withPackages. Version ranges are not looked at here; a test in the check holds the versions to them.
{
  lib,
  pyproject,
  extras,
}:
let
  inherit (builtins.fromTOML (builtins.readFile pyproject)) project;

  # PEP 508: the name ends where extras, versions or markers begin. PEP 503: one spelling for each name.
  nameOf =
    requirement:
    let
      match = builtins.match "([A-Za-z0-9][A-Za-z0-9._-]*).*" requirement;
      words = builtins.split "[-_.]+" (builtins.head match);
    in
    if match == null then
      throw "pyproject.toml: ${builtins.toJSON requirement} is not a requirement"
    else
      lib.toLower (builtins.concatStringsSep "-" (builtins.filter builtins.isString words));

  requirements = builtins.concatLists (
    [ project.dependencies ] ++ map (extra: project.optional-dependencies.${extra}) extras
  );

  # The same library; on PyPI this is its name with libpq inside.
  renamed = {
    psycopg2-binary = "psycopg2";
  };
in
packages:
map (
  requirement:
  let
    name = nameOf requirement;
    attribute = renamed.${name} or name;
  in
  packages.${attribute} or (throw (
    "nixpkgs has no Python package ${attribute}, which pyproject.toml requires as ${builtins.toJSON requirement}; "
    + "choose one that it has, or move it to an extra that nix/python-packages.nix does not read"
  ))
) requirements
