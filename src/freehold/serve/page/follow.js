// Keeps the end of the conversation in view while it grows, unless the reader has gone elsewhere.

import { byId } from "./dom.js";

const NEAR_PX = 40;
const scroller = byId("scroller");
const button = byId("to-end");
let following = true;
let top = 0;

scroller.addEventListener("scroll", () => {
  // Growth alone also leaves the end out of view: only a move upwards is the reader's.
  if (isAtEnd()) following = true;
  else if (scroller.scrollTop < top) following = false;
  top = scroller.scrollTop;
  button.hidden = following || isAtEnd();
});
button.addEventListener("click", () => toEnd());

/** To be called when the conversation has grown. */
export function grown() {
  if (following) scroller.scrollTop = scroller.scrollHeight;
  else button.hidden = isAtEnd();
}

/** Go to the end, and stay there. */
export function toEnd() {
  following = true;
  button.hidden = true;
  scroller.scrollTop = scroller.scrollHeight;
}

function isAtEnd() {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_PX;
}
