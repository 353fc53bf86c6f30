# For other flakes and configurations: `celery-postgres` in every Python's packages, and the program `skeldir`.
final: prev: {
  pythonPackagesExtensions = prev.pythonPackagesExtensions ++ [
    (python: _: { celery-postgres = python.callPackage ./celery-postgres.nix { }; })
  ];

  inherit (import ./. { pkgs = final; }) skeldir;
}
