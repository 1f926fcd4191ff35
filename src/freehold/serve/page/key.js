// The server's key, asked for when the server asks.

import { ApiError, setKey } from "./api.js";
import { byId } from "./dom.js";

let asking = null; // one dialog, whoever waits for it

/** The result of `work()`, begun again with another key for as long as the server asks for one. */
export async function withKey(work) {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 401)) throw error;
      if (!(await askKey(error.message))) throw error;
    }
  }
}

/** Whether a key was given. */
export function askKey(message) {
  asking ??= open(message).finally(() => (asking = null));
  return asking;
}

function open(message) {
  const dialog = byId("key-dialog");
  const field = byId("key");
  byId("key-error").textContent = message;
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  let given = false;
  byId("key-form").onsubmit = () => {
    setKey(field.value);
    given = true;
  };
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(given), { once: true }));
}
