// The page: choose a picture, and show what the model predicts. `window.headstart.predict(source)` is for programs.

import { load } from "./headstart.js";

const UNSURE_MARGIN = 0.2;
const NUM_BARS = 10;
const find = (id) => document.getElementById(id);

let model, stream, facing = "environment", pictureUrl, latest = 0;

function show(id, isShown) {
  find(id).hidden = !isShown;
}

function formatShare(share) {
  if (share > 0.999 && share < 1) return "> 99.9%";
  if (share > 0 && share < 0.001) return "< 0.1%";
  return `${(100 * share).toFixed(1)}%`;
}

function listNames(names) {
  const shown = names.slice(0, NUM_BARS).join(", ");
  return names.length > NUM_BARS ? `${shown} and ${names.length - NUM_BARS} more` : shown;
}

async function start() {
  find("unserved").remove();
  show("loading", true);
  const loading = load({
    onProgress: (share, bytes) => {
      find("progress").value = share;
      const loaded = `Loading the model: ${Math.floor(100 * share)}% of ${Math.ceil(bytes / 1e6)} MB`;
      find("loading-text").textContent = share < 1 ? loaded : "Starting the model";
    },
  });
  window.headstart = { ready: loading, predict: async (source) => (await loading).predict(source) };
  try {
    model = await loading;
  } catch (error) {
    find("error").textContent = `The model cannot be loaded. ${error.message}`;
    return;
  } finally {
    show("loading", false);
  }
  const { classes, is_multi_label } = model.description;
  find("classes").textContent = `${is_multi_label ? "Labels" : "Classes"}: ${listNames(classes)}`;
  show("choose", true);
  show("start-camera", Boolean(navigator.mediaDevices?.getUserMedia));
}

/** Classify a picture, and show it with its probabilities; a later picture replaces one that is still in work. */
async function classify(source) {
  const number = ++latest;
  find("error").textContent = find("status").textContent = "";
  find("result").setAttribute("aria-busy", "true");
  try {
    const prediction = await model.predict(source);
    if (number === latest) showPrediction(source, prediction);
  } catch (error) {
    if (number !== latest) return;
    show("result", false);
    find("error").textContent = error.message;
  } finally {
    if (number === latest) find("result").setAttribute("aria-busy", "false");
  }
}

function showPrediction(source, prediction) {
  URL.revokeObjectURL(pictureUrl);
  pictureUrl = URL.createObjectURL(source);
  find("picture").src = pictureUrl;
  const { verdict, note } = describe(prediction);
  find("verdict").textContent = verdict;
  find("note").textContent = note;
  find("status").textContent = `${verdict}. ${note}`;
  const ranked = model.description.classes
    .map((name, at) => ({ name, at, share: prediction.probability[name] }))
    .sort((one, other) => other.share - one.share);
  const isChosen = ({ name }) => !prediction.isOutlier && prediction.labels.includes(name);
  find("bars").replaceChildren(...ranked.slice(0, NUM_BARS).map((row) => buildBar(row, isChosen(row))));
  const { width, height, distance } = prediction, limit = model.description.outlier_threshold;
  const measured = limit === null ? "" : `; distance ${distance.toFixed(1)}, threshold ${limit.toFixed(1)}`;
  const rest = ranked.length > NUM_BARS ? `; ${ranked.length - NUM_BARS} less probable classes are not shown` : "";
  find("measures").textContent = `${width} × ${height} pixels${measured}${rest}`;
  show("result", true);
}

function describe({ label, labels, margin, isOutlier, probability }) {
  const names = labels.join(", ") || "No label";
  if (isOutlier) {
    const likely = labels.length ? ` The most probable would be: ${names}.` : "";
    return { verdict: "None of these", note: `The picture is unlike the training pictures.${likely}` };
  }
  if (margin >= UNSURE_MARGIN) return { verdict: names, note: "" };
  const { classes, is_multi_label, thresholds } = model.description;
  if (is_multi_label) {
    const near = classes.filter((name, at) => Math.abs(probability[name] - thresholds[at]) < UNSURE_MARGIN);
    return { verdict: names, note: `Unsure, because near the threshold: ${near.join(", ")}.` };
  }
  const [first, second] = Object.entries(probability).sort(([, one], [, other]) => other - one);
  return { verdict: `Unsure: ${first[0]} or ${second[0]}`, note: `${label} is a little more probable.` };
}

function buildBar({ name, at, share }, isChosen) {
  const row = document.createElement("li"), bar = document.createElement("div"), filled = document.createElement("div");
  const texts = { name, share: formatShare(share) };
  if (model.description.is_multi_label) texts.share += ` (from ${formatShare(model.description.thresholds[at])})`;
  for (const [kind, text] of Object.entries(texts)) {
    const part = document.createElement("span");
    part.className = kind;
    part.dir = "auto";
    part.textContent = text;
    row.append(part);
  }
  filled.style.width = `${100 * share}%`;
  bar.className = "bar";
  bar.append(filled);
  row.classList.toggle("chosen", isChosen);
  row.append(bar);
  return row;
}

function classifyFirst(files) {
  if (!files.length) {
    find("error").textContent = "This is not a file. Save the picture, and choose its file.";
    return;
  }
  closeCamera();
  classify(files[0]);
  if (files.length > 1) find("error").textContent = `Only the first of ${files.length} files is used.`;
}

async function openCamera() {
  closeCamera();
  find("error").textContent = "";
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: facing } });
  } catch (error) {
    const reasons = { NotAllowedError: "the browser does not allow it", NotFoundError: "no camera was found" };
    find("error").textContent = `The camera cannot be used: ${reasons[error.name] ?? error.message}.`;
    return;
  }
  const video = find("video");
  video.srcObject = stream;
  await video.play();
  show("camera", true);
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  show("turn", cameras.length > 1);
  find("take").focus();
}

function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = undefined;
  show("camera", false);
}

async function takePicture() {
  const video = find("video"), canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  classify(await new Promise((resolve) => canvas.toBlob(resolve, "image/png")));
}

find("open").addEventListener("click", () => find("file").click());
find("file").addEventListener("change", ({ target }) => {
  if (target.files.length) classifyFirst([...target.files]);
  target.value = "";
});
find("start-camera").addEventListener("click", openCamera);
find("stop").addEventListener("click", () => {
  closeCamera();
  find("start-camera").focus();
});
find("take").addEventListener("click", takePicture);
find("turn").addEventListener("click", () => {
  facing = facing === "environment" ? "user" : "environment";
  openCamera();
});
document.addEventListener("paste", ({ clipboardData: { files } }) => model && files.length && classifyFirst(files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  find("choose").classList.add("over");
});
document.addEventListener("dragleave", ({ relatedTarget }) => relatedTarget ?? find("choose").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  find("choose").classList.remove("over");
  if (model) classifyFirst(event.dataTransfer.files);
});

start();
