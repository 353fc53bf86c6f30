// `publish MODE …` of the contract in benchmarks/systems/__init__.py, as benchmarks/programs/publishing.py does it.
import { setTimeout as sleep } from "node:timers/promises";

// Publishes before the clock starts: connections, caches, prepared statements.
const WARM_UP = 200;
const SETTLING = 20;
// Tasks handed over together.
const BATCH = 1000;
// setTimeout is a millisecond coarse and up to one late: the rest of a pause is waited for without the loop, which has
// nothing to do meanwhile, and without the processor.
const COARSE_NS = 2_000_000n;
const NEVER = new Int32Array(new SharedArrayBuffer(4));

// As `sized` there, letter by letter.
export function sized(size) {
  let state = 1;
  const draw = (limit) => {
    state = (state * 48271) % 2147483647;
    return state % limit;
  };
  let text = "";
  while (text.length < size) {
    let name = "";
    for (let left = 4 + draw(8); left > 0; left -= 1) name += String.fromCharCode(97 + draw(26));
    const dated = `2026-11-${10 + draw(20)}T${10 + draw(14)}:${10 + draw(50)}`;
    text += `${draw(100000000)};${name};${draw(100000)};${["open", "paid", "late"][draw(3)]};${dated};EUR `;
  }
  return text.slice(0, size);
}

// one(number, seconds, padding) publishes a task; many(numbers, seconds, padding) several at once. Both are awaited.
export async function answer([mode, first, ...rest], one, many) {
  const from = Number(first);
  const numbers = rest.map(Number);
  if (mode === "one_by_one") {
    const [count, limit, size] = numbers;
    const padding = sized(size);
    return rate(from, count, limit, 1, ([number]) => one(number, 0, padding));
  }
  if (mode === "in_bulk") {
    const [count, limit, size, seconds] = numbers;
    const padding = sized(size);
    return rate(from, count, limit, BATCH, (batch) => many(batch, seconds, padding));
  }
  if (mode === "paced") {
    const [count, shortest, longest] = numbers;
    return paced(from, count, shortest, longest, one);
  }
  if (mode === "steady") {
    const [each, seconds] = numbers;
    return steady(from, each, seconds, one);
  }
  throw new Error(`publish: no mode "${mode}"`);
}

async function rate(first, count, limit, batch, send) {
  const warm = count <= WARM_UP ? 0 : WARM_UP;
  for (let start = 0; start < warm; start += batch) {
    await send(range(first + start, Math.min(batch, warm - start)));
  }
  const wanted = count - warm;
  const cpu = process.cpuUsage();
  const begin = process.hrtime.bigint();
  const passed = () => Number(process.hrtime.bigint() - begin) / 1e9;
  let done = 0;
  while (done < wanted && passed() < limit) {
    const numbers = range(first + warm + done, Math.min(batch, wanted - done));
    await send(numbers);
    done += numbers.length;
  }
  const seconds = passed();
  const spent = process.cpuUsage(cpu);
  return { published: done, seconds, rate: done / seconds, cpu_s: (spent.user + spent.system) / 1e6 };
}

async function paced(from, count, shortest, longest, one) {
  const published = [];
  const first = await settle(from, one);
  for (let number = first; number < first + count; number += 1) {
    await sleep((shortest + Math.random() * (longest - shortest)) * 1000);
    const begin = process.hrtime.bigint();
    await one(number, 0, "");
    published.push([number, begin, process.hrtime.bigint()]);
  }
  return published;
}

async function settle(first, one) {
  for (let number = first; number < first + SETTLING; number += 1) await one(number, 0, "");
  return first + SETTLING;
}

async function steady(from, each, seconds, one) {
  const first = await settle(from, one);
  const origin = process.hrtime.bigint();
  const published = [];
  for (let position = 0; position < Math.floor(each * seconds); position += 1) {
    const due = origin + BigInt(Math.floor((position / each) * 1e9));
    const early = due - process.hrtime.bigint();
    if (early > COARSE_NS) await sleep(Number(early - COARSE_NS) / 1e6);
    const left = due - process.hrtime.bigint();
    if (left > 0) Atomics.wait(NEVER, 0, 0, Number(left) / 1e6);
    await one(first + position, 0, "");
    published.push([first + position, due, process.hrtime.bigint()]);
  }
  return published;
}

function range(first, count) {
  return Array.from({ length: count }, (_, position) => first + position);
}

// JSON in which BigInts are the integers that they are: nanoseconds since boot do not exceed 2^53 for a hundred days.
export function print(value) {
  console.log(JSON.stringify(value, (_, one) => (typeof one === "bigint" ? Number(one) : one)));
}
