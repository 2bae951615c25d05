// Picture files: their kind and size by their headers, and their pixels by the browser's decoders.

import { flatten, isClear } from "./pixels.js";

const MAX_BYTES = 2 ** 28;
const MAX_SIDE = 16384; // Wider canvases fail in Safari.

/** Picture that cannot be used; the message is for the user. */
export class PictureError extends Error {
  name = "PictureError";
}

/**
 * Open a picture for `resize`.
 *
 * @param {Blob | ImageBitmap | {data: ArrayLike<number>, width: number, height: number}} source - a file, or pixels,
 *     RGB or RGBA in 0 to 255.
 * @param {{max_pixels: number, sample_bits: number, decode_edition: number}} rules - from model.json.
 * @returns {Promise<{width: number, height: number, read: Function, close: Function}>}
 */
export async function openPicture(source, rules) {
  if (source instanceof Blob) return openBitmap(await decode(source, rules), rules);
  if (source instanceof ImageBitmap) return openBitmap(source, rules);
  return openPixels(source);
}

function openPixels({ data, width, height }) {
  const channels = data.length / (width * height);
  if (channels !== 3 && channels !== 4) throw new PictureError("The data do not have 3 or 4 values per pixel.");
  const read = (top, count) => {
    const rows = data.subarray(top * width * channels, (top + count) * width * channels);
    return channels === 4 ? flatten(rows) : rows;
  };
  return { width, height, read, close() {} };
}

/** Throw if the browser changes the pixels that a page reads, as Firefox and Tor do to prevent tracking. */
function checkCanvas() {
  const side = 16, context = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
  const drawn = Uint8ClampedArray.from({ length: 4 * side * side }, (_, at) => (at % 4 === 3 ? 255 : (37 * at) % 256));
  context.putImageData(new ImageData(drawn, side, side), 0, 0);
  const read = context.getImageData(0, 0, side, side).data;
  if (drawn.some((value, at) => Math.abs(value - read[at]) > 2)) {
    throw new PictureError(
      "The browser changes the pixels of pictures, as a protection against tracking. " +
        "Allow this page to read canvases, or use another browser.",
    );
  }
}

function openBitmap(bitmap, rules) {
  checkCanvas();
  const { width, height } = bitmap;
  if (Math.max(width, height) > MAX_SIDE) {
    throw new PictureError(`The picture has ${width} × ${height} pixels. A side may have at most ${MAX_SIDE}.`);
  }
  const numRows = Math.max(2, Math.floor(2 ** 22 / width));
  const context = new OffscreenCanvas(width, Math.min(numRows, height)).getContext("2d", { willReadFrequently: true });
  const readAll = (top, count) => {
    context.clearRect(0, 0, width, count);
    context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    return context.getImageData(0, 0, width, count).data;
  };
  if (rules.decode_edition > 1) {
    let top = 0;
    while (top < height && isClear(readAll(top, Math.min(numRows, height - top)))) top += numRows;
    // Training ignores such an alpha channel, but browsers do not give the colours of transparent pixels.
    if (top >= height) throw new PictureError("Every pixel of the picture is transparent. Save it without transparency.");
  }
  return { width, height, read: (top, count) => flatten(readAll(top, count)), close: () => bitmap.close() };
}

async function decode(blob, rules) {
  if (!blob.size) throw new PictureError("The file is empty.");
  if (blob.size > MAX_BYTES) throw new PictureError(`The file is larger than ${MAX_BYTES / 2 ** 20} MiB.`);
  const header = readHeader(new DataView(await blob.arrayBuffer()));
  const { type, width, height, bits } = header;
  if (!(width > 0 && height > 0)) throw new PictureError("The picture is damaged: its header has no size.");
  if (width * height > rules.max_pixels) {
    const limit = rules.max_pixels.toLocaleString("en");
    throw new PictureError(`The picture has ${width} × ${height} pixels. The limit is ${limit} pixels in all.`);
  }
  if (bits === 16 && rules.sample_bits < 16) {
    throw new PictureError(
      `The picture has 16 bits per sample, of which the model expects ${rules.sample_bits} to be used. ` +
        "Browsers do not give these samples. Use `headstart predict`.",
    );
  }
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  try {
    return await createImageBitmap(blob.slice(0, blob.size, type), options);
  } catch (error) {
    throw new PictureError("The picture is damaged, or the browser cannot decode it.", { cause: error });
  }
}

/**
 * Read kind and size of a picture from its header, before the browser allocates memory for its pixels.
 *
 * Sources: PNG (third edition) 11.2.1; ITU T.81 B.2.2; GIF89a 18; WebP container and lossless specifications; BMP;
 * ISO/IEC 23008-12, 6.5.3.
 */
export function readHeader(view) {
  const text = (start, length) =>
    start + length <= view.byteLength
      ? String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + start, length))
      : "";
  try {
    if (text(0, 8) === "\x89PNG\r\n\x1a\n") {
      const bits = view.getUint8(24);
      return { type: "image/png", width: view.getUint32(16), height: view.getUint32(20), bits };
    }
    if (text(0, 3) === "\xff\xd8\xff") return { type: "image/jpeg", ...readJpegSize(view) };
    if (text(0, 4) === "GIF8") {
      return { type: "image/gif", width: view.getUint16(6, true), height: view.getUint16(8, true) };
    }
    if (text(0, 4) === "RIFF" && text(8, 4) === "WEBP") return { type: "image/webp", ...readWebpSize(view, text(12, 4)) };
    if (text(4, 4) === "ftyp" && /avi[fs]/.test(text(8, view.getUint32(0) - 8))) {
      return { type: "image/avif", ...readAvifSize(view) };
    }
    if (text(0, 2) === "BM") {
      const width = view.getInt32(18, true), height = Math.abs(view.getInt32(22, true));
      const isOld = view.getUint32(14, true) === 12;
      const size = isOld ? { width: view.getUint16(18, true), height: view.getUint16(20, true) } : { width, height };
      return { type: "image/bmp", ...size };
    }
  } catch {
    throw new PictureError("The picture is damaged: its header is incomplete.");
  }
  throw new PictureError(`The file is ${describe(text)}. Choose a JPEG, PNG, WebP, AVIF, GIF or BMP picture.`);
}

function readJpegSize(view) {
  for (let position = 2; ; ) {
    while (view.getUint8(position) !== 0xff) position++;
    while (view.getUint8(position) === 0xff) position++;
    const marker = view.getUint8(position++);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) return { width: view.getUint16(position + 5), height: view.getUint16(position + 3) };
    const hasLength = marker !== 0x01 && !(marker >= 0xd0 && marker <= 0xd8);
    position += hasLength ? view.getUint16(position) : 0;
  }
}

function readWebpSize(view, chunk) {
  if (chunk === "VP8 ") {
    return { width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff };
  }
  if (chunk === "VP8L") {
    const packed = view.getUint32(21, true);
    return { width: (packed & 0x3fff) + 1, height: ((packed >>> 14) & 0x3fff) + 1 };
  }
  const read = (position) => 1 + view.getUint16(position, true) + view.getUint8(position + 2) * 65536;
  return { width: read(24), height: read(27) };
}

/** Return the largest size in the properties of an AVIF file; others are those of tiles, alpha and thumbnails. */
function readAvifSize(view) {
  let largest = { width: 0, height: 0 };
  const search = (start, end) => {
    while (start + 8 <= end) {
      const length = view.getUint32(start) || end - start;
      const name = String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + start + 4, 4));
      if (name === "ispe") {
        const size = { width: view.getUint32(start + 12), height: view.getUint32(start + 16) };
        if (size.width * size.height > largest.width * largest.height) largest = size;
      }
      // `meta` begins with a version. Boxes of 64-bit length hold the pixels.
      const offset = { meta: 12, iprp: 8, ipco: 8 }[name];
      if (offset) search(start + offset, start + length);
      if (length < 8) return;
      start += length;
    }
  };
  search(0, view.byteLength);
  return largest;
}

function describe(text) {
  const kinds = [
    [/^(II\*\0|MM\0\*)/, "a TIFF picture, which browsers do not decode"],
    [/^.{4}ftyp(hei|hev|mif|msf)/s, "a HEIC picture, which most browsers do not decode"],
    [/^(\xff\x0a|\0\0\0\x0cJXL )/, "a JPEG XL picture, which most browsers do not decode"],
    [/^.{4}ftyp/s, "a video"],
    [/^P[1-6]\s/, "a PPM picture, which browsers do not decode"],
    [/^%PDF/, "a PDF document"],
    [/^PK\x03\x04/, "an archive"],
    [/^\s*(<svg|<\?xml)/i, "an SVG or XML file"],
    [/^\s*</, "a web page"],
  ];
  const start = text(0, 16) || text(0, 8) || text(0, 4);
  return kinds.find(([pattern]) => pattern.test(start))?.[1] ?? "not a picture";
}
