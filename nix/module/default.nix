# services.celery-postgres: workers, beat and HTTP front of a Celery application, and their database.
{
  imports = [
    ./options.nix
    ./processes.nix
    ./database.nix
    ./monitoring.nix
  ];
}
