# An image for a registry, of any application that the NixOS module could run: `mkImage { name; python; app; … }`.
# Build it and hand it to a container engine: `$(nix build --no-link --print-out-paths .#image) | docker load`.
{ pkgs }:
{
  name,
  tag ? "latest",
  app,
  python,
  pythonPath ? [ ],
  migrate ? [
    "python"
    "-m"
    "celery_postgres"
    "migrate"
  ],
  # The SQL of the roles, if it is not the package's.
  roles ? null,
  front ? {
    command = [ ];
  },
  # What the module alone reads.
  ...
}:
let
  words = import ./words.nix;
  inherit (pkgs) lib;

  # The account has a name, which Celery asks for, and its number is what runAsNonRoot can see.
  uid = "10001";
  accounts = pkgs.runCommand "accounts" { } ''
    mkdir -p "$out/etc"
    echo "celery:x:${uid}:${uid}:Celery:/tmp:/bin/false" > "$out/etc/passwd"
    echo "celery:x:${uid}:" > "$out/etc/group"
    echo "hosts: files dns" > "$out/etc/nsswitch.conf"
  '';

  program =
    name: description: command:
    pkgs.writeShellApplication {
      inherit name;
      runtimeInputs = [ python ];
      text = ''
        exec ${lib.escapeShellArgs command} "$@"
      '';
      meta = { inherit description; };
    };
in
pkgs.dockerTools.streamLayeredImage {
  inherit name tag;

  contents = [
    accounts
    python
    pkgs.coreutils
    pkgs.dockerTools.caCertificates
  ]
  ++ lib.optional (migrate != [ ]) (program "celery-migrate" "Bring the tables up to date" migrate)
  ++ [
    (program "celery-grant" "Give the roles their rights on the tables" (
      [
        "python"
        "-m"
        "celery_postgres"
        "roles"
        "--run"
      ]
      ++ lib.optional (roles != null) "${roles}"
    ))
  ]
  ++ lib.optional (front.command != [ ]) (program "celery-front" "The HTTP front" front.command);

  # All that it writes is here; the rest may be read-only.
  extraCommands = "mkdir --mode=1777 tmp";

  config = {
    # No shell between: Celery is process 1, and TERM lets its tasks end.
    Cmd = words.worker {
      inherit app;
      pool = "prefork";
      concurrency = null;
      logLevel = "INFO";
    };
    StopSignal = "SIGTERM";
    User = "${uid}:${uid}";
    WorkingDir = "/tmp";
    Env = [
      "HOME=/tmp"
      "PATH=/bin"
      "PYTHONDONTWRITEBYTECODE=1"
      "PYTHONUNBUFFERED=1"
      "SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt"
      # Where this repository's application says that its worker takes tasks, and where it serves metrics.
      "CELERY_WORKER_FILE=/tmp/worker-ready"
      "CELERY_METRICS_ADDR=0.0.0.0"
    ]
    ++ lib.optional (pythonPath != [ ]) "PYTHONPATH=${builtins.concatStringsSep ":" pythonPath}";
    ExposedPorts = {
      "8000/tcp" = { };
      "9540/tcp" = { };
    };
    Healthcheck = {
      Test = [
        "CMD"
        "test"
        "-f"
        "/tmp/worker-ready"
      ];
      # In nanoseconds.
      Interval = 5000000000;
      StartPeriod = 60000000000;
    };
  };
}
