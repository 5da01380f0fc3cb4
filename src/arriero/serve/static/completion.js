// Asks the model for an answer and writes it into a message as it comes.

import { info, stream } from "./api.js";

/** How a chat is sampled where neither user nor model says: as by `arriero chat`. */
const PLAIN = { temperature: 0.2, top_p: 0.9, repetition_penalty: 1.1 };

/** How a chat is sampled where the user says nothing; from documents the server answers as it has it. */
export async function usual(settings) {
  if (settings.collection) return {};
  const { models, default: first } = await info();
  const own = models.find(({ id }) => id === (settings.model ?? first))?.sampling ?? {};
  return { ...("temperature" in own ? {} : PLAIN), ...own };
}

/** The request for the answer to `messages`. */
async function bodyOf(settings, messages) {
  const system =
    settings.system?.trim() && !settings.collection ? [{ role: "system", content: settings.system.trim() }] : [];
  const body = {
    ...(settings.model && { model: settings.model }), // before the list of models came, the server's first answers
    messages: [...system, ...takeTurns(messages)],
    stream: true,
    stream_options: { include_usage: true },
  };
  Object.assign(body, await usual(settings));
  delete body.max_tokens; // where the user does not say, the server knows how much there is room for
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (settings[name] !== null && settings[name] !== undefined) body[name] = settings[name];
  }
  if (settings.collection) {
    body.model = `arriero:${settings.collection}`;
    const wanted = { ...(settings.model && { model: settings.model }), ...(settings.k && { k: settings.k }) };
    if (Object.keys(wanted).length) body.arriero = wanted;
  }
  return body;
}

/** Questions with their answers, and the last question: one without an answer is left out, as templates want it. */
function takeTurns(messages) {
  const turns = messages.filter((message, at) =>
    message.role === "user" ? at === messages.length - 1 || messages[at + 1].content : message.content,
  );
  return turns.map(({ role, content }) => ({ role, content }));
}

/**
 * Fills `message` (content, finish, usage, evidence, seconds; or error, stopped) and calls `changed` at each piece.
 * Never throws: what goes wrong is told in the message, where the user sees it.
 */
export async function complete(settings, messages, message, changed, signal) {
  const began = performance.now();
  try {
    for await (const event of stream("v1/chat/completions", await bodyOf(settings, messages), signal)) {
      const choice = event.choices?.[0];
      if (choice?.delta?.content) {
        message.first ??= performance.now() - began;
        message.content += choice.delta.content;
      }
      if (choice?.finish_reason) message.finish = choice.finish_reason;
      if (event.usage) message.usage = event.usage;
      if (event.arriero) message.evidence = event.arriero;
      changed();
    }
  } catch (error) {
    if (error.name === "AbortError") message.stopped = true;
    else message.error = error.message;
  }
  message.seconds = (performance.now() - began) / 1000;
  message.busy = false;
  changed();
}

/** "41 tokens · 38 a second" as numbers, or null where the server told none; no rate where pieces came all at once. */
export function pace(message) {
  const tokens = message.usage?.completion_tokens;
  if (!tokens || !message.seconds) return null;
  const seconds = message.seconds - (message.first ?? 0) / 1000;
  return { tokens, rate: seconds > 0.1 && !message.evidence ? (tokens - 1) / seconds : null, seconds: message.seconds };
}
