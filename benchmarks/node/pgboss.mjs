// pg-boss: installs, works and publishes for the comparison.
import { PgBoss } from "pg-boss";

import { answer, print } from "./publishing.mjs";
import { concurrency, sayBegun, sayReady, worker } from "./work.mjs";

const QUEUE = "work";
// One task at a time is no reason to fetch one at a time: 200 tasks of 1 ms in a second.
const batchSize = Math.max(concurrency, 500);

function boss(options) {
  const made = new PgBoss({ connectionString: process.env.BENCH_BROKER, schedule: false, ...options });
  made.on("error", (error) => console.error(error.message));
  return made;
}

async function install() {
  const pgBoss = boss();
  await pgBoss.start();
  await pgBoss.createQueue(QUEUE, { notify: true, partition: true });
  await pgBoss.stop({ graceful: false });
  print(true);
}

async function work() {
  const pgBoss = boss({ useListenNotify: true });
  await pgBoss.start();
  const task = worker();
  const options = { batchSize, burstWhenBatchFull: true };
  sayBegun();
  const own = await pgBoss.work(QUEUE, options, async (jobs) => {
    // Where there was something, more may wait: the next fetch does not wait for the poll.
    pgBoss.notifyWorker(own);
    if (concurrency > 1) await Promise.all(jobs.map((job) => task(job.data)));
    else for (const job of jobs) await task(job.data);
  });
  sayReady();
  const stop = () => pgBoss.stop({ graceful: true, timeout: 10_000 });
  process.once("SIGTERM", stop);
  process.once("SIGINT", stop);
}

async function publish(words) {
  const pgBoss = boss({ supervise: false, migrate: false });
  await pgBoss.start();
  const one = (number, seconds, padding) => pgBoss.send(QUEUE, { number, seconds, padding });
  const many = (numbers, seconds, padding) =>
    pgBoss.insert(QUEUE, numbers.map((number) => ({ data: { number, seconds, padding } })));
  print(await answer(words, one, many));
  await pgBoss.stop({ graceful: false });
}

const [command, ...words] = process.argv.slice(2);
await { install, worker: work, publish }[command](words);
