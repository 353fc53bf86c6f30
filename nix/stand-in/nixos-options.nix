# The options of NixOS that nix/module sets. What they mean is NixOS' business; here they only take their values.
{ lib, pkgs, ... }:
let
  free =
    default:
    lib.mkOption {
      type = lib.types.anything;
      inherit default;
    };
in
{
  options = {
    assertions = free [ ];
    environment.etc = free { };
    environment.systemPackages = free [ ];
    networking.firewall.allowedTCPPorts = free [ ];
    networking.hostName = free "machine";
    services.postgresql = free { };
    services.prometheus = free { };
    system.stateVersion = free "";
    systemd.services = free { };
    systemd.slices = free { };
    systemd.targets = free { };
    users.groups = free { };
    users.users = free { };
    virtualisation = free { };
  };

  # NixOS chooses by its state version.
  config.services.postgresql.package = lib.mkDefault pkgs.postgresql_16;
}
