# A unit of systemd for a process of the application: its account, its secrets, and what it may not do.
{
  lib,
  pkgs,
  cfg,
}:
let
  base = {
    LimitNOFILE = 65536;
    CapabilityBoundingSet = "";
    DeviceAllow = "";
    DevicePolicy = "closed";
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    NoNewPrivileges = true;
    PrivateDevices = true;
    PrivateTmp = true;
    PrivateUsers = true;
    ProcSubset = "pid";
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHome = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    ProtectSystem = "strict";
    RemoveIPC = true;
    RestrictAddressFamilies = [
      "AF_INET"
      "AF_INET6"
      "AF_UNIX"
    ];
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    SystemCallFilter = [
      "@system-service"
      "~@privileged"
    ];
    UMask = "0077";
  };

  # The application reads the variable, and only this account can read its processes' variables.
  fromCredential =
    urlFile:
    lib.optionalString (urlFile != null) ''
      DATABASE_URL=$(cat "$CREDENTIALS_DIRECTORY/database-url")
      export DATABASE_URL
    '';
in
{
  # The lines of a script; the last may be `exec`.
  name,
  description,
  lines,
  urlFile,
  user ? cfg.user,
  environment ? { },
  environmentFiles ? [ ],
  # Programs beside those of the Python environment.
  programs ? [ ],
  after ? [ ],
  serviceConfig ? { },
  unit ? { },
}:
lib.mkMerge [
  {
    inherit description;
    after = after ++ [ "network-online.target" ];
    wants = after ++ [ "network-online.target" ];
    environment = {
      PYTHONDONTWRITEBYTECODE = "1";
      PYTHONNOUSERSITE = "1";
      PYTHONUNBUFFERED = "1";
    }
    // lib.optionalAttrs (cfg.pythonPath != [ ]) {
      PYTHONPATH = builtins.concatStringsSep ":" cfg.pythonPath;
    }
    // lib.optionalAttrs (urlFile == null) {
      # No login in the URL: libpq takes the name of the account, which the server knows from the socket (peer).
      DATABASE_URL = "postgresql:///${cfg.database.name}?host=/run/postgresql";
    }
    // cfg.environment
    // environment;
    serviceConfig =
      base
      // {
        ExecStart = "${
          pkgs.writeShellApplication {
            inherit name;
            runtimeInputs = [ cfg.python ] ++ programs;
            text = fromCredential urlFile + lines;
            meta = { inherit description; };
          }
        }/bin/${name}";
        EnvironmentFile = cfg.environmentFiles ++ environmentFiles;
        RuntimeDirectory = name;
        RuntimeDirectoryMode = "0700";
        Slice = "system-celery.slice";
        User = user;
        WorkingDirectory = "%t/${name}";
      }
      // lib.optionalAttrs (urlFile != null) {
        LoadCredential = "database-url:${toString urlFile}";
      }
      // serviceConfig;
  }
  unit
]
