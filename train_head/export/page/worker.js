// The worker of headstart.js: decodes pictures and runs the model, so that the page never freezes.
//
// A classic worker, because the runtime loads its own script with importScripts, which module workers do not have.

"use strict";

let model;

async function readModel({ file, bytes }) {
  const response = await fetch(file);
  if (!response.ok) throw new Error(`${file}: the server answered ${response.status}.`);
  const content = new Uint8Array(bytes);
  const reader = response.body.getReader();
  let position = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (position + part.value.length > bytes) position = bytes + 1;
    if (position > bytes) break;
    content.set(part.value, position);
    position += part.value.length;
    postMessage({ progress: position / bytes, bytes });
  }
  if (position !== bytes) throw new Error(`${file}: expected ${bytes} bytes, got another file. Copy the folder again.`);
  return content;
}

async function load() {
  const modules = Promise.all([import("./engine.js"), import("./pictures.js"), import("./pixels.js")]);
  const response = await fetch("model.json");
  if (!response.ok) throw new Error(`model.json: the server answered ${response.status}.`);
  const description = await response.json();
  const content = await readModel(description.model);
  const [{ compile }, { openPicture }, { resize }] = await modules;
  const run = await compile(content, description.image_size, new URL("runtime/", self.location).href);
  model = { description, run, openPicture, resize };
  return description;
}

async function predict(source) {
  const { description, run, openPicture, resize } = model;
  const picture = await openPicture(source, description);
  try {
    const pixels = resize(picture, description.image_size);
    return { ...(await run(pixels)), width: picture.width, height: picture.height };
  } finally {
    picture.close();
  }
}

self.onmessage = async ({ data: { id, source } }) => {
  try {
    postMessage({ id, result: await (source ? predict(source) : load()) });
  } catch (error) {
    postMessage({ id, error: error.message ?? String(error), name: error.name });
  }
};
