# Part of a NixOS configuration: two workers, a beat and the console, with PostgreSQL on the same machine.
{ pkgs, ... }:
{
  services.celery-postgres = {
    enable = true;
    app = "mine";
    python = pkgs.python313.withPackages (packages: [
      packages.celery-postgres
      packages.jinja2
      packages.starlette
      packages.uvicorn
    ]);
    # The folder with mine.py; leave it out if your application is one of the packages.
    pythonPath = [ "${./.}" ];
    database.createLocally = true;
    workers = {
      quick = {
        pool = "threads";
        concurrency = 8;
        queues = [ "celery" ];
      };
      reports = {
        concurrency = 2;
        queues = [ "reports" ];
        # Seconds. A stop waits 15 s longer, then kills.
        longestTask = 3600;
        environmentFiles = [ "/run/secrets/reports.env" ];
      };
    };
    beat.enable = true;
    console.enable = true;
  };
}
