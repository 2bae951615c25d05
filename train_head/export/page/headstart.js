// Run the model in a browser, on the visitor's device:
//
//   import { load } from "./web/headstart.js";
//   const model = await load();
//   const { label, probability, isOutlier } = await model.predict(file);

/** Model that was loaded by `load`. */
export class Model {
  #call;

  constructor(description, call) {
    /** Content of model.json: classes, thresholds, and further facts. */
    this.description = description;
    this.#call = call;
  }

  /**
   * Classify a picture.
   *
   * @param {Blob | ImageBitmap | {data: ArrayLike<number>, width: number, height: number}} source - a picture file
   *     (JPEG, PNG, WebP, AVIF, GIF or BMP); an image bitmap; or pixels, RGB or RGBA in 0 to 255.
   * @returns {Promise<object>} `label`: the most probable class; `labels`: the predicted classes, most probable first;
   *     `probability`: of each class; `margin`: how far the probability of the first class is from that of the second,
   *     or, with several labels a picture, the nearest probability from its threshold; `distance` from the training
   *     pictures, or null; `isOutlier`: whether the distance is above the limit; `width` and `height` of the picture.
   * @throws {Error} with the name PictureError and a message for the user, if the picture cannot be used.
   */
  async predict(source) {
    const { probability, distance, ...size } = await this.#call(source);
    const { classes, is_multi_label, thresholds, outlier_threshold } = this.description;
    const order = [...classes.keys()].sort((one, other) => probability[other] - probability[one]);
    const chosen = is_multi_label ? order.filter((at) => probability[at] >= thresholds[at]) : order.slice(0, 1);
    const margin = is_multi_label
      ? Math.min(...classes.map((_, at) => Math.abs(probability[at] - thresholds[at])))
      : probability[order[0]] - probability[order[1]];
    return {
      label: classes[order[0]],
      labels: chosen.map((at) => classes[at]),
      probability: Object.fromEntries(classes.map((name, at) => [name, probability[at]])),
      margin,
      distance,
      isOutlier: distance !== null && outlier_threshold !== null && distance > outlier_threshold,
      ...size,
    };
  }
}

/**
 * Load the model in a worker.
 *
 * @param {{onProgress?: (share: number, bytes: number) => void}} options - `onProgress` gets the
 *     loaded share of the model, 0 to 1, and its size in bytes.
 * @returns {Promise<Model>}
 */
export async function load({ onProgress } = {}) {
  const worker = new Worker(new URL("worker.js", import.meta.url));
  const waiting = new Map();
  let numCalls = 0;
  const call = (source) =>
    new Promise((resolve, reject) => {
      const id = numCalls++;
      waiting.set(id, { resolve, reject });
      worker.postMessage({ id, source });
    });
  worker.onmessage = ({ data: { id, result, error, name, progress, bytes } }) => {
    if (progress !== undefined) return onProgress?.(progress, bytes);
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    return error === undefined ? resolve(result) : reject(Object.assign(new Error(error), { name }));
  };
  worker.onerror = (event) => {
    const reason = event.message ?? "worker.js could not be loaded. The server has to send .js files as text/javascript";
    for (const { reject } of waiting.values()) reject(new Error(reason));
    waiting.clear();
  };
  return new Model(await call(), call);
}
