# The workers' metrics and the alert rules, for the Prometheus of the same machine.
{ config, lib, ... }:
let
  cfg = config.services.celery-postgres;
  ports = builtins.filter (port: port != null) (
    map (worker: worker.metricsPort) (builtins.attrValues cfg.workers)
  );
in
{
  config = lib.mkIf (cfg.enable && cfg.metrics.scrape) {
    services.prometheus = {
      ruleFiles = [ ../../ops/prometheus/celery.rules.yml ];
      scrapeConfigs = [
        {
          job_name = "celery";
          scrape_timeout = "10s";
          static_configs = [ { targets = map (port: "127.0.0.1:${toString port}") ports; } ];
        }
      ];
    };
  };
}
