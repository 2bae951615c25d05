// Run a model in the runtime of the browser, under Node.js: `node web_node.mjs FOLDER MODEL SIZE`.
//
// FOLDER has the scripts of the page, MODEL is a model.tflite. Standard input is a sequence of pictures: height and
// width as 32-bit integers, then (height, width, 3) float32 values, all little-endian. Standard output has, at the
// start, the numbers of probabilities and distances as 32-bit integers, and for each picture these float32 values.

import { readFileSync, readSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { runInThisContext } from "node:vm";

const [folder, file, size] = process.argv.slice(2);

// The runtime's script expects a worker's importScripts, and the variables of a CommonJS module.
globalThis.self = globalThis;
globalThis.navigator ??= {};
globalThis.require = createRequire(import.meta.url);
globalThis.importScripts = (url) => {
  globalThis.__filename = fileURLToPath(url);
  globalThis.__dirname = dirname(__filename);
  runInThisContext(readFileSync(__filename, "utf8"), { filename: __filename });
};
console.log = console.error;

function readExactly(numBytes) {
  const bytes = Buffer.alloc(numBytes);
  for (let position = 0; position < numBytes; ) {
    const count = readSync(0, bytes, position, numBytes - position);
    if (!count) return null;
    position += count;
  }
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + numBytes);
}

function write(values) {
  const bytes = new Uint8Array(values.buffer);
  for (let position = 0; position < bytes.length; ) position += writeSync(1, bytes, position);
}

const { compile } = await import(pathToFileURL(join(folder, "engine.js")));
const { resize } = await import(pathToFileURL(join(folder, "pixels.js")));
const runtime = pathToFileURL(join(folder, "runtime", "/")).href;
const run = await compile(readFileSync(file), Number(size), runtime);
const blank = await run(new Float32Array(size * size * 3));
write(Int32Array.of(blank.probability.length, blank.distance === null ? 0 : 1));

for (let header = readExactly(8); header; header = readExactly(8)) {
  const [height, width] = new Int32Array(header);
  const pixels = new Float32Array(readExactly(12 * height * width));
  const read = (top, count) => pixels.subarray(3 * width * top, 3 * width * (top + count));
  const { probability, distance } = await run(resize({ width, height, read }, Number(size)));
  write(Float32Array.of(...probability, ...(distance === null ? [] : [distance])));
}
