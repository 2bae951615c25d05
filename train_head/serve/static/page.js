// The page: sends each picture to /predict, and shows the answer. Text from files and models is only set as text.

const MAX_CARDS = 100;
const MAX_PARALLEL = 3;
const MAX_BARS = 5;
const MAX_TRIES = 20;
const find = (id) => document.getElementById(id);
const results = find("results");
let model = null;
let numPhotos = 0;
let numRunning = 0;
const waiting = [];

/** Return a share as text, such as 98.7%. */
function formatShare(share) {
  if (share > 0.999 && share < 1) return "> 99.9%";
  if (share > 0 && share < 0.001) return "< 0.1%";
  return `${(100 * share).toFixed(1)}%`;
}

function formatSize(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function showStatus() {
  const numCards = results.children.length;
  const numOpen = numRunning + waiting.length;
  find("status").textContent = numOpen
    ? `Classifying: ${numOpen} left`
    : numCards ? `${numCards} ${numCards === 1 ? "picture" : "pictures"}` : "";
  find("clear").hidden = !numCards;
}

/** Add a card for each file, and send the files. */
function addFiles(files) {
  const chosen = [...files];
  const room = MAX_CARDS - results.children.length;
  for (const file of chosen.slice(0, Math.max(0, room))) {
    const card = find("card").content.firstElementChild.cloneNode(true);
    card.setAttribute("aria-busy", "true");
    card.querySelector(".verdict").textContent = "Classifying …";
    card.querySelector(".name").textContent = file.name;
    showPreview(card, file);
    results.prepend(card);
    waiting.push({ card, file });
  }
  sendWaiting();
  if (chosen.length > room) {
    find("status").textContent =
      `This page holds ${MAX_CARDS} pictures. Clear it, or classify a folder with the command headstart predict.`;
  }
}

function showPreview(card, file) {
  const image = card.querySelector("img");
  image.alt = `Picture ${file.name}`;
  image.addEventListener("error", () => {
    image.hidden = true;
    card.querySelector(".no-picture").hidden = false;
  });
  image.src = URL.createObjectURL(file);
}

function sendWaiting() {
  while (numRunning < MAX_PARALLEL && waiting.length) {
    const { card, file } = waiting.shift();
    numRunning += 1;
    classify(file)
      .then((answer) => showAnswer(card, answer), (error) => showProblem(card, error.message))
      .then(() => announce(card))
      .finally(() => {
        numRunning -= 1;
        card.removeAttribute("aria-busy");
        sendWaiting();
      });
  }
  showStatus();
}

/** Return the prediction of a file, or throw an Error whose message can be shown. */
async function classify(file) {
  if (model && file.size > model.limits.bytes) {
    throw new Error(`The file has ${formatSize(file.size)}. The limit is ${formatSize(model.limits.bytes)}.`);
  }
  let data;
  try {
    // A folder cannot be read.
    data = await file.arrayBuffer();
  } catch {
    throw new Error("The file cannot be read.");
  }
  for (let number = 1; ; number += 1) {
    const response = await request("/predict", data);
    if (response.status === 503 && number < MAX_TRIES) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * Number(response.headers.get("retry-after") || 2)));
      continue;
    }
    const answer = await readJson(response);
    if (!response.ok) throw new Error(describeProblem(answer));
    return answer.predictions[0];
  }
}

async function request(path, data) {
  const options = data && {
    method: "POST",
    headers: { "content-type": "application/octet-stream" },
    body: data,
    signal: AbortSignal.timeout(120000),
  };
  try {
    return await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Start it again, and reload this page.");
  }
}

async function readJson(response) {
  try {
    return await response.json();
  } catch {
    throw new Error(`The server answered with status ${response.status}. Try again later.`);
  }
}

function describeProblem(answer) {
  return `Expected ${answer.expected}, got ${answer.got}. ${answer.advice}.`;
}

/** Let screen readers read the result. */
function announce(card) {
  const [name, verdict, note] = [".name", ".verdict", ".note"].map((each) => card.querySelector(each).textContent);
  find("announcement").textContent = `${name}: ${verdict}. ${note}`;
}

function showProblem(card, message) {
  card.classList.add("failed");
  card.querySelector(".verdict").textContent = "Not classified";
  showNote(card, message);
}

function showNote(card, text) {
  const note = card.querySelector(".note");
  note.textContent = text;
  note.hidden = false;
}

function showAnswer(card, found) {
  const chosen = model.is_multi_label ? Object.keys(found.labels) : [found.label];
  const [label, share] = Object.entries(found.probabilities).sort((first, second) => second[1] - first[1])[0];
  const best = `${label} ${formatShare(share)}`;
  let verdict = model.is_multi_label ? chosen.join(", ") || "No label" : best;
  if (found.is_outlier) {
    verdict = "None of these";
    showNote(card, `The picture is unlike the training pictures. The most probable class would be ${best}.`);
  } else if (found.is_unsure) {
    verdict = `Unsure: ${verdict}`;
    showNote(
      card,
      model.is_multi_label
        ? "The probability of a label is close to its threshold."
        : "The probabilities of the two most probable classes are close to each other.",
    );
  }
  card.querySelector(".verdict").textContent = verdict;
  showBars(card, found, found.is_outlier ? [] : chosen);
  if (found.nearest?.length) showNearest(card, found.nearest);
}

function showBars(card, found, chosen) {
  const shares = Object.entries(found.probabilities).sort((first, second) => second[1] - first[1]);
  const [bars, rest] = card.querySelectorAll(".bars");
  const numFirst = shares.length > MAX_BARS + 1 ? MAX_BARS : shares.length;
  bars.append(...shares.slice(0, numFirst).map(([label, share]) => makeBar(label, share, chosen.includes(label))));
  if (numFirst < shares.length) {
    const more = card.querySelector(".more");
    more.hidden = false;
    more.querySelector("summary").textContent = `${shares.length - numFirst} other classes`;
    more.addEventListener(
      "toggle",
      () => rest.append(...shares.slice(numFirst).map(([label, share]) => makeBar(label, share, chosen.includes(label)))),
      { once: true },
    );
  }
}

function makeBar(label, share, isChosen) {
  const bar = make("li", isChosen ? "chosen" : "");
  const track = make("span", "track");
  const fill = make("span", "fill");
  fill.style.width = `${100 * share}%`;
  track.append(fill);
  track.setAttribute("aria-hidden", "true");
  bar.append(make("span", "", label), make("span", "share", formatShare(share)), track);
  return bar;
}

function showNearest(card, nearest) {
  const section = card.querySelector(".nearest");
  section.hidden = false;
  section.querySelector("ul").append(
    ...nearest.map((near) => {
      const item = make("li");
      const gone = make("div", "gone", near.path.split("/").pop());
      if (model.has_thumbnails) {
        const image = make("img");
        image.alt = `Training picture ${near.path}`;
        image.addEventListener("error", () => image.replaceWith(gone));
        image.src = near.thumbnail;
        item.append(image);
      } else {
        item.append(gone);
      }
      item.append(near.label.replaceAll("|", ", "), make("small", "", `similarity ${near.similarity.toFixed(2)}`));
      item.title = near.path;
      return item;
    }),
  );
}

async function openCamera() {
  // Browsers allow the camera only on secure pages and on this computer. Elsewhere, phones offer it for a file.
  if (!navigator.mediaDevices?.getUserMedia) {
    find("photo").click();
    return;
  }
  const dialog = find("viewfinder");
  const problem = find("camera-problem");
  problem.hidden = true;
  find("take").disabled = true;
  dialog.showModal();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    if (!dialog.open) {
      stopCamera(stream);
      return;
    }
    find("video").srcObject = stream;
  } catch (error) {
    problem.textContent =
      error.name === "NotFoundError"
        ? "This computer has no camera. Choose a picture instead."
        : "The camera cannot be used. Allow it in the browser, or choose a picture instead.";
    problem.hidden = false;
  }
}

function stopCamera(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

function takePhoto() {
  const video = find("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob(
    (blob) => {
      numPhotos += 1;
      addFiles([new File([blob], `photo ${numPhotos}.jpg`, { type: "image/jpeg" })]);
      find("viewfinder").close();
    },
    "image/jpeg",
    0.95,
  );
}

function clearResults() {
  for (const image of results.querySelectorAll(".picture img")) URL.revokeObjectURL(image.src);
  waiting.length = 0;
  results.replaceChildren();
  showStatus();
  find("files").focus();
}

function listen() {
  const drop = find("drop");
  for (const input of [find("files"), find("photo")]) {
    input.addEventListener("change", () => {
      addFiles(input.files);
      input.value = "";
    });
  }
  find("camera").addEventListener("click", openCamera);
  find("video").addEventListener("loadeddata", () => {
    find("take").disabled = false;
    find("take").focus();
  });
  find("take").addEventListener("click", takePhoto);
  find("close").addEventListener("click", () => find("viewfinder").close());
  find("viewfinder").addEventListener("close", () => {
    stopCamera(find("video").srcObject);
    find("video").srcObject = null;
    find("camera").focus();
  });
  find("clear").addEventListener("click", clearResults);
  // A picture dropped beside the area would replace the page.
  window.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    addFiles(event.dataTransfer.files);
  });
  window.addEventListener("paste", (event) => addFiles(event.clipboardData.files));
}

async function start() {
  try {
    model = await readJson(await request("/model"));
    // iPhones convert HEIC pictures to JPEG for pages that do not accept them.
    find("files").accept += `,${model.extensions.join(",")}`;
  } catch (error) {
    find("status").textContent = error.message;
    return;
  }
  const names = model.classes.slice(0, 12).join(", ");
  const numMore = model.classes.length - 12;
  find("classes").textContent = numMore > 0 ? `${names} and ${numMore} more` : names;
  listen();
  document.documentElement.dataset.ready = "yes";
}

start();
