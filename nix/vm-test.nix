# A server and two workers, each a machine of its own. One worker's power is cut; all tasks end. For `testers.runNixOSTest`.
{
  celery-postgres,
  python,
  source,
}:
let
  # The application of examples/deployment, as somebody else's project.
  pythonEnv = python.withPackages (_: [ celery-postgres ]);
  application = {
    enable = true;
    python = pythonEnv;
    pythonPath = [ "${source [ "examples" ]}/examples/deployment" ];
    app = "mine";
  };

  worker = {
    imports = [ ./module ];
    services.celery-postgres = application // {
      # The server brings the tables up to date.
      migrate = [ ];
      database.urlFile = "/etc/celery-url";
      workers.main = {
        concurrency = 4;
        longestTask = 60;
      };
    };
    # A test's password. A real one is not in the store.
    environment.etc.celery-url = {
      text = "postgresql://runner:a-password@server/celery";
      mode = "0400";
    };
  };
in
{
  name = "celery-postgres";

  nodes = {
    server =
      { pkgs, ... }:
      {
        imports = [ ./module ];
        services.celery-postgres = application // {
          database.createLocally = true;
          beat.enable = true;
        };
        services.postgresql = {
          enableTCPIP = true;
          authentication = "host celery runner samenet scram-sha-256";
        };
        networking.firewall.allowedTCPPorts = [ 5432 ];
        environment.systemPackages = [
          (pkgs.writeShellApplication {
            name = "mine";
            runtimeInputs = [ pythonEnv ];
            text = ''
              export PYTHONPATH=${builtins.concatStringsSep ":" application.pythonPath}
              export DATABASE_URL="postgresql:///celery?host=/run/postgresql"
              exec python -c "$1"
            '';
            meta.description = "Publish tasks of the application";
          })
        ];
      };
    one = worker;
    two = worker;
  };

  testScript = ''
    def mine(code):
        return server.succeed(f"sudo -u celery mine 'import mine; {code}'")


    def claimed(task):
        sql = f"SELECT FROM kombu_message WHERE task_id = '{task}' AND consumer_id IS NOT NULL"
        return f'sudo -u postgres psql -d celery -c "{sql}" | grep "1 row"'


    server.start()
    server.wait_for_unit("celery-migrate.service")
    server.wait_for_unit("celery-beat.service")
    role = "CREATE ROLE runner LOGIN PASSWORD $$a-password$$ IN ROLE celery_worker"
    server.succeed(f"sudo -u postgres psql -d celery -c '{role}'")
    for machine in (one, two):
        machine.start()
    for machine in (one, two):
        machine.wait_for_unit("celery-worker-main.service")
        machine.wait_until_succeeds("test -e /tmp/systemd-private-*celery-worker-main*/tmp/worker-ready", timeout=60)

    tasks = mine("print(*[mine.work.delay(0.2).id for _ in range(300)])").split()
    server.wait_until_succeeds(claimed(tasks[50]), timeout=60)
    two.crash()
    mine(f"[mine.app.AsyncResult(each).get(timeout=120) for each in {tasks!r}]".replace("'", '"'))

    # A stop lets the running task end.
    task = mine("print(mine.work.delay(5).id)").strip()
    server.wait_until_succeeds(claimed(task), timeout=60)
    one.succeed("systemctl stop celery-worker-main.service")
    assert one.succeed("systemctl show --value --property Result celery-worker-main.service").strip() == "success"
    assert "SUCCESS" in mine(f'print(mine.app.AsyncResult("{task}").state)')
  '';
}
