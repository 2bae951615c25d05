// The model in LiteRT's WebAssembly runtime. Node.js runs this file when an export is checked.

import { Tensor, loadAndCompile, loadLiteRt } from "./runtime/core.js";

/**
 * Compile a model.
 *
 * @param {Uint8Array} bytes - content of model.tflite.
 * @param {number} size - side of the model's input, in pixels.
 * @param {string} folder - URL of the folder `runtime/`, with a slash at the end.
 * @returns {Promise<(pixels: Float32Array) => Promise<{probability: number[], distance: ?number}>>} function from
 *     (size, size, 3) RGB in 0 to 255.
 */
export async function compile(bytes, size, folder) {
  // Without this, the runtime would also open the graphics card, which the model does not use.
  if (globalThis.navigator?.gpu) Object.defineProperty(navigator, "gpu", { value: undefined });
  globalThis.Module = { locateFile: (name) => folder + name };
  await loadLiteRt(`${folder}litert_wasm_compat_internal.js`);
  const model = await loadAndCompile(bytes, { accelerator: "wasm" });
  return async (pixels) => {
    const rgb = new Tensor(pixels, [1, size, size, 3]);
    let outputs = {};
    try {
      outputs = await model.run({ rgb });
      const probability = Array.from(await outputs.probability.data());
      const distance = outputs.distance ? (await outputs.distance.data())[0] : null;
      return { probability, distance };
    } finally {
      rgb.delete();
      Object.values(outputs).forEach((tensor) => tensor.delete());
    }
  };
}
