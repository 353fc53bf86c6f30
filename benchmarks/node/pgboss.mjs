// pg-boss: installs, works and publishes for the comparison.
import PgBoss from "pg-boss";

import { answer, print } from "./publishing.mjs";
import { concurrency, sayBegun, sayReady, worker } from "./work.mjs";

const QUEUE = "work";
// One task at a time is no reason to fetch one at a time: 200 tasks of 1 ms in a second.
const batchSize = Math.max(concurrency, 500);
const keepResults = process.env.BENCH_RESULTS === "1";

function boss(options) {
  const made = new PgBoss({ connectionString: process.env.BENCH_BROKER, schedule: false, ...options });
  made.on("error", (error) => console.error(error.message));
  return made;
}

async function install() {
  const pgBoss = boss();
  await pgBoss.start();
  await pgBoss.createQueue(QUEUE);
  await pgBoss.stop({ graceful: false });
  print(true);
}

async function work() {
  const pgBoss = boss();
  await pgBoss.start();
  const task = worker();
  const options = { batchSize, pollingIntervalSeconds: 0.5 };
  sayBegun();
  const own = await pgBoss.work(QUEUE, options, async (jobs) => {
    // Where there was something, more may wait: the next fetch does not wait for the poll.
    pgBoss.notifyWorker(own);
    const results = concurrency > 1 ? await Promise.all(jobs.map((job) => task(job.data))) : [];
    for (const job of jobs.slice(results.length)) results.push(await task(job.data));
    // A handler's result is kept for a batch of one only; of more, each task is completed with its own.
    if (keepResults) {
      await Promise.all(jobs.map(({ id }, position) => pgBoss.complete(QUEUE, id, { value: results[position] })));
    }
  });
  sayReady();
  const stop = () => pgBoss.stop({ graceful: true, wait: true, timeout: 10_000 });
  process.once("SIGTERM", stop);
  process.once("SIGINT", stop);
}

async function publish(words) {
  const pgBoss = boss({ supervise: false, migrate: false });
  await pgBoss.start();
  const one = (number, seconds, padding) => pgBoss.send(QUEUE, { number, seconds, padding });
  const many = (numbers, seconds, padding) =>
    pgBoss.insert(numbers.map((number) => ({ name: QUEUE, data: { number, seconds, padding } })));
  print(await answer(words, one, many));
  await pgBoss.stop({ graceful: false });
}

const [command, ...words] = process.argv.slice(2);
await { install, worker: work, publish }[command](words);
