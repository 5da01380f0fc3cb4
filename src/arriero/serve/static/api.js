// The server's API: calls, streams and uploads. The token is asked for once, when the server first wants it.

import { askToken } from "./dialogs.js";
import { t } from "./language.js";

/** What went wrong, in words for the user. */
export class ApiError extends Error {
  constructor(message, { status = 0, param = null, code = null } = {}) {
    super(message);
    Object.assign(this, { status, param, code });
  }
}

let token = sessionToken();
let asking = null;

/** The token of this tab; `#token=…` in the address brings it, and is taken out of sight. */
function sessionToken() {
  const brought = /[#&]token=([^&]+)/.exec(location.hash);
  if (brought) {
    history.replaceState(null, "", location.pathname + location.search);
    keep(decodeURIComponent(brought[1]));
  }
  try {
    return sessionStorage.getItem("arriero.token");
  } catch {
    return null;
  }
}

function keep(text) {
  try {
    sessionStorage.setItem("arriero.token", text);
  } catch {
    /* for this page only */
  }
}

function authorization() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Asks for the token; calls that wait at the same time share the question. False: the user would not tell. */
async function renewToken(refused) {
  if (token !== refused) return true;
  asking ??= askToken(refused !== null).finally(() => {
    asking = null;
  });
  const told = await asking;
  if (told && token === refused) {
    token = told;
    keep(told);
  }
  return Boolean(told);
}

/** The response to a request; throws an ApiError unless it succeeded. */
export async function request(path, { json, headers, ...rest } = {}) {
  for (;;) {
    const sent = token;
    const options = { ...rest, headers: { ...headers, ...authorization() } };
    if (json !== undefined) {
      options.method ??= "POST";
      options.body = JSON.stringify(json);
      options.headers["Content-Type"] = "application/json";
    }
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(t("error.unreachable"));
    }
    if (response.ok) return response;
    if (response.status === 401 && (await renewToken(sent))) continue;
    throw errorOf(response.status, await response.text());
  }
}

/** The error that a body tells, in OpenAI's shape; else what the status means. */
function errorOf(status, body) {
  let told = null;
  try {
    told = JSON.parse(body).error;
  } catch {
    /* no JSON: a proxy's page, perhaps */
  }
  const message = typeof told === "string" ? told : told?.message;
  return new ApiError(message || t("error.status", { status }), { status, ...(told?.param && { param: told.param }) });
}

/** The JSON that a request gives, or null where there is nothing. */
export async function call(path, options) {
  const text = await (await request(path, options)).text();
  return text ? JSON.parse(text) : null;
}

/** The events of a stream (server-sent events with JSON), until [DONE]. */
export async function* stream(path, json, signal) {
  const response = await request(path, { json, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new ApiError(t("error.cut"));
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new ApiError(event.error.message, event.error);
        yield event;
      }
    }
  } catch (error) {
    if (error instanceof TypeError) throw new ApiError(t("error.cut"));
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Sends one file; `progress` hears the share that has gone. Resolves to the answer's JSON. */
export async function upload(path, file, progress) {
  for (;;) {
    const sent = token;
    const { status, body } = await sendFile(path, file, progress);
    if (status >= 200 && status < 300) return JSON.parse(body);
    if (status === 401 && (await renewToken(sent))) continue;
    if (status === 0) throw new ApiError(t("error.unreachable"));
    throw errorOf(status, body);
  }
}

/** `fetch` tells no progress of what it sends, so this is the older way. */
function sendFile(path, file, progress) {
  return new Promise((resolve) => {
    const form = new FormData();
    form.append("files", file, file.name);
    const sender = new XMLHttpRequest();
    sender.open("POST", path);
    for (const [name, value] of Object.entries(authorization())) sender.setRequestHeader(name, value);
    sender.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    sender.onloadend = () => resolve({ status: sender.status, body: sender.responseText });
    sender.send(form);
  });
}

let known = null;

/** What the server offers; asked once, and again after `fresh`. */
export function info({ fresh = false } = {}) {
  if (fresh || !known) {
    known = call("api/info");
    known.catch(() => {
      known = null;
    });
  }
  return known;
}
