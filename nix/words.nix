# The command lines of a worker and a beat: one place for the module and the image.
{
  worker =
    {
      app,
      pool,
      concurrency,
      queues ? [ ],
      hostname ? null,
      logLevel,
      extraArguments ? [ ],
    }:
    [
      "celery"
      "--app"
      app
      "worker"
      "--pool"
      pool
      "--loglevel"
      logLevel
    ]
    ++ (
      if concurrency == null then
        [ ]
      else
        [
          "--concurrency"
          (toString concurrency)
        ]
    )
    ++ (
      if queues == [ ] then
        [ ]
      else
        [
          "--queues"
          (builtins.concatStringsSep "," queues)
        ]
    )
    ++ (
      if hostname == null then
        [ ]
      else
        [
          "--hostname"
          hostname
        ]
    )
    ++ extraArguments;

  # No pidfile: the supervisor knows the process, and a file that is left behind would keep a beat from starting.
  beat =
    { app, logLevel }:
    [
      "celery"
      "--app"
      app
      "beat"
      "--pidfile="
      "--loglevel"
      logLevel
    ];

  # Its keys come from the environment.
  console =
    {
      app,
      address,
      port,
      allowedHosts,
      trustedProxies,
    }:
    [
      "celery"
      "--app"
      app
      "console"
      "--host"
      address
      "--port"
      (toString port)
    ]
    ++ builtins.concatMap (host: [
      "--allowed-host"
      host
    ]) allowedHosts
    ++ builtins.concatMap (proxy: [
      "--trusted-proxy"
      proxy
    ]) trustedProxies;

  # What a worker needs after its longest task: 10 s for results that the database cannot store at once, and the rest.
  secondsAfterTheLongestTask = 15;
}
