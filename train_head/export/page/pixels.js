// Pixels for the model: alpha and size as in training (docs/how-to/inputs.md). No part of the browser is used, so that
// Node.js can run this file too.

const MAX_STRIP_PIXELS = 2 ** 22;

/**
 * Resize a picture: bilinear, pixel centres at 0.5, no antialiasing, as TensorFlow's ResizeBilinear.
 *
 * Every operation rounds to float32, so that the values are those of TensorFlow, bit for bit.
 *
 * @param {{width: number, height: number, read: (top: number, count: number) => ArrayLike<number>}} picture - `read`
 *     returns rows as RGB, in 0 to 255. A large picture is read in strips.
 * @param {number} size - side of the result, in pixels.
 * @returns {Float32Array} (size, size, 3).
 */
export function resize({ width, height, read }, size) {
  const float = Math.fround;
  const columns = findNeighbours(width, size);
  const numStripRows = Math.max(2, Math.floor(MAX_STRIP_PIXELS / width));
  const resized = new Float32Array(size * size * 3);
  let strip, first, end = 0, position = 0;
  for (const [above, below, share] of findNeighbours(height, size)) {
    if (below >= end) {
      first = above;
      end = Math.min(height, above + numStripRows);
      strip = read(first, end - first);
    }
    const upper = (above - first) * width * 3, lower = (below - first) * width * 3;
    const mix = (row, left, right, part) => {
      const value = strip[row + left];
      return float(value + float(float(strip[row + right] - value) * part));
    };
    for (const [left, right, part] of columns) {
      for (let colour = 0; colour < 3; colour++) {
        const top = mix(upper + colour, left * 3, right * 3, part);
        const bottom = mix(lower + colour, left * 3, right * 3, part);
        resized[position++] = float(top + float(float(bottom - top) * share));
      }
    }
  }
  return resized;
}

/** Return [lower index, upper index, share of the upper] of each of `size` positions along `length` pixels. */
function findNeighbours(length, size) {
  const float = Math.fround, scale = float(length / size);
  return Array.from({ length: size }, (_, number) => {
    const position = float(float(float(number + 0.5) * scale) - 0.5);
    const lower = Math.floor(position);
    const indices = [Math.max(lower, 0), Math.min(Math.ceil(position), length - 1)];
    return [...indices, float(position - lower)];
  });
}

/**
 * Composite RGBA over white, by the integer arithmetic of Pillow's alpha_composite.
 *
 * @param {Uint8ClampedArray} data - RGBA, not premultiplied.
 * @returns {Uint8ClampedArray} RGB.
 */
export function flatten(data) {
  const rgb = new Uint8ClampedArray((data.length / 4) * 3);
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
    const weight = data[from + 3] * 128;
    const white = 255 * (255 * 128 - weight) + 128 * 128;
    for (let colour = 0; colour < 3; colour++) {
      const sum = data[from + colour] * weight + white;
      rgb[to + colour] = ((sum >> 8) + sum) >> 15;
    }
  }
  return rgb;
}

/** Return whether alpha is 0 in every pixel of RGBA data. */
export function isClear(data) {
  for (let position = 3; position < data.length; position += 4) {
    if (data[position]) return false;
  }
  return true;
}
