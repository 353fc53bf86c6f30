// What a worker did and when: the format of benchmarks/journal.py, little-endian int64 number, start and end.
//
// The file is as long as it will ever be from the start, so that a reader can map it. Node has no mmap: each record is
// written at its place with one pwrite (1.4 µs), which kill -9 does not undo either.
import { ftruncateSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";

const RECORD = 24;

export class Journal {
  #file;
  #next = 0;
  #capacity;
  #record = Buffer.alloc(RECORD);

  constructor(folder, capacity) {
    this.#capacity = capacity;
    this.#file = openSync(join(folder, `${process.pid}.journal`), "w+");
    ftruncateSync(this.#file, capacity * RECORD);
  }

  write(number, start, end) {
    if (this.#next >= this.#capacity) return;
    this.#record.writeBigInt64LE(BigInt(number), 0);
    this.#record.writeBigInt64LE(start, 8);
    this.#record.writeBigInt64LE(end, 16);
    writeSync(this.#file, this.#record, 0, RECORD, this.#next * RECORD);
    this.#next += 1;
  }
}
