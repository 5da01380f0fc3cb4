// Files on their way into a collection: a few at once, each with its own progress and its own error.

import { ApiError, call, upload } from "./api.js";
import { t } from "./language.js";

const AT_ONCE = 4;
const POLL_MS = [100, 200, 400, 800, 1600];
const queue = [];
let working = 0;
let heard = () => {};

/** Calls `listen` at each change; one listener at a time. */
export function watchUploads(listen) {
  heard = listen;
}

/** The files of a collection, in the order in which they came: {name, state, share, error}. */
export function uploadsOf(collection) {
  return queue.filter((one) => one.collection === collection);
}

/** Takes files in; they go on while another page is looked at. */
export function add(collection, files) {
  for (const file of files) queue.push({ collection, file, name: file.name, state: "waiting", share: 0, error: null });
  heard();
  work();
}

/** The files of a drop, those in its folders too. */
export async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some(({ isDirectory }) => isDirectory)) return [...transfer.files];
  return (await Promise.all(entries.map(filesBelow))).flat();
}

async function filesBelow(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (let some; (some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length;) {
    found.push(...(await Promise.all(some.map(filesBelow))).flat()); // it gives them a hundred at a time
  }
  return found;
}

/** Sends a file that failed once more. */
export function retry(one) {
  Object.assign(one, { state: "waiting", share: 0, error: null });
  heard();
  work();
}

/** Forgets the files of a collection that have arrived or failed. */
export function clear(collection) {
  for (const one of uploadsOf(collection).filter(finished)) queue.splice(queue.indexOf(one), 1);
  heard();
}

/** Whether nothing more happens to a file by itself. */
export const finished = ({ state }) => !["waiting", "sending", "reading"].includes(state);

async function work() {
  const one = queue.find(({ state }) => state === "waiting");
  if (!one || working >= AT_ONCE) return;
  working += 1;
  one.state = "sending";
  work();
  try {
    await send(one);
  } catch (error) {
    Object.assign(one, { state: "failed", error: error.message });
  }
  working -= 1;
  heard(one);
  work();
}

async function send(one) {
  const path = `api/collections/${encodeURIComponent(one.collection)}/documents`;
  const show = (change) => {
    Object.assign(one, change);
    heard();
  };
  heard();
  const { job } = await upload(path, one.file, (share) => show({ share }));
  show({ state: "reading", share: 0 });
  for (let asked = 0; ; asked += 1) {
    const told = await call(`api/jobs/${encodeURIComponent(job)}`);
    const file = told.files[0];
    if (told.share < 1) show({ share: told.share });
    if (file && ["added", "unchanged", "failed"].includes(file.state)) {
      Object.assign(one, { state: file.state, error: file.error });
      return;
    }
    if (["done", "failed"].includes(told.state)) throw new ApiError(told.error ?? t("upload.lost"));
    await new Promise((resolve) => setTimeout(resolve, POLL_MS[asked] ?? POLL_MS.at(-1)));
  }
}

addEventListener("beforeunload", (event) => {
  if (working) event.preventDefault();
});
