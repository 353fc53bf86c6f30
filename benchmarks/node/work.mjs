// The task of the comparison, for any system: sleep, then write down when.
import { writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import { Journal } from "./journal.mjs";

export const concurrency = Number(process.env.BENCH_CONCURRENCY ?? 1);

const NEVER = new Int32Array(new SharedArrayBuffer(4));

export function worker() {
  const journal = new Journal(process.env.BENCH_JOURNAL, Number(process.env.BENCH_CAPACITY));
  return async function work({ number, seconds }) {
    const start = process.hrtime.bigint();
    if (seconds) await rest(start, seconds);
    journal.write(number, start, process.hrtime.bigint());
    return number;
  };
}

// A timer of Node comes up to a millisecond early; what is left of that is waited for without using the processor.
async function rest(start, seconds) {
  await sleep(seconds * 1000);
  const left = seconds * 1000 - Number(process.hrtime.bigint() - start) / 1e6;
  if (left > 0) Atomics.wait(NEVER, 0, 0, left);
}

// Before the first fetch: whoever measures it knows when it began.
export function sayBegun() {
  writeFileSync(`${process.env.BENCH_READY}.begun`, "");
}

export function sayReady() {
  writeFileSync(process.env.BENCH_READY, "");
}
