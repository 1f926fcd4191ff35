// The server, as its API shows it: the models, and a reply as a stream of events.

const KEY = "freehold-key"; // in sessionStorage: gone with the tab

/** What the server or the way to it answered. `status` is 0 when there was no answer. */
export class ApiError extends Error {
  constructor(status, message, { code = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

export const setKey = (key) => sessionStorage.setItem(KEY, key);

/** The models that the server answers with. Throws ApiError. */
export async function listModels() {
  const response = await request("v1/models", {});
  return (await response.json()).data;
}

/** A model with the report on it. Throws ApiError. */
export async function getModel(id) {
  const response = await request(`v1/models/${encodeURIComponent(id)}`, {});
  return response.json();
}

/** The chunks of a reply as they come. Throws ApiError, also in the middle; AbortError when `signal` says so. */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(response.status, messageOf(chunk), { code: chunk.error.code });
    yield chunk;
  }
  throw new ApiError(0, "The connection ended before the reply did.");
}

async function request(path, options) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new ApiError(0, "The server cannot be reached.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const retryAfter = Number(response.headers.get("retry-after")) || null;
  throw new ApiError(response.status, messageOf(body) ?? `The server answered ${response.status}.`, {
    code: body.error?.code,
    retryAfter,
  });
}

const messageOf = (body) => (typeof body.error === "string" ? body.error : body.error?.message);

/** The data of each server-sent event of a body of bytes. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { done, value } = await read(reader);
      if (done) return;
      const parts = (pending + value).split(/\r?\n\r?\n/);
      pending = parts.pop();
      for (const part of parts) {
        const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (data.length) yield data.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    throw error.name === "AbortError" ? error : new ApiError(0, "The connection was lost before the reply ended.");
  }
}
