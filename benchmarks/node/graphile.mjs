// Graphile Worker: installs, works and publishes for the comparison.
import { EventEmitter } from "node:events";

import { Logger, makeWorkerUtils, run, runMigrations } from "graphile-worker";

import { answer, print } from "./publishing.mjs";
import { concurrency, sayBegun, sayReady, worker } from "./work.mjs";

const connectionString = process.env.BENCH_BROKER;
// Errors and warnings only.
const logger = new Logger(() => (level, message) => {
  if (level === "error" || level === "warning") console.error(message);
});

async function install() {
  await runMigrations({ connectionString, logger });
  print(true);
}

async function work() {
  const events = new EventEmitter();
  // From now on it hears of new jobs.
  events.once("pool:listen:success", sayReady);
  sayBegun();
  const runner = await run({
    preset: {
      worker: {
        connectionString,
        concurrentJobs: concurrency,
        maxPoolSize: concurrency + 1,
        localQueue: { size: 500 },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
        logger,
        events,
      },
    },
    taskList: { work: worker() },
    parsedCronItems: [],
  });
  await runner.promise;
}

async function publish(words) {
  const utils = await makeWorkerUtils({ connectionString, logger });
  try {
    const one = (number, seconds, padding) => utils.addJob("work", { number, seconds, padding });
    const many = (numbers, seconds, padding) =>
      utils.addJobs(numbers.map((number) => ({ identifier: "work", payload: { number, seconds, padding } })));
    print(await answer(words, one, many));
  } finally {
    await utils.release();
  }
}

const [command, ...words] = process.argv.slice(2);
await { install, worker: work, publish }[command](words);
