// The models of the server: one picker for each lane, and what is known about each model.

import { showAbout } from "./about.js";
import { listModels } from "./api.js";
import { byId, el, icon, iconButton } from "./dom.js";
import { summary } from "./facts.js";
import { withKey } from "./key.js";

const POLL_MS = 1000; // while the first model is being loaded

export class Models {
  /** `onChange()` is called when a lane has another model or more is known about it. */
  constructor(onChange) {
    this.known = [];
    this.onChange = onChange;
    this.pickers = [0, 1].map((lane) => new Picker(lane, this));
    this.notice = byId("notice");
    byId("pickers").append(...this.pickers.map((picker) => picker.element));
  }

  /** The model of a lane as the server describes it, or null while none is known. */
  of(lane) {
    return this.known.find((model) => model.id === this.pickers[lane].select.value) ?? null;
  }

  async refresh() {
    try {
      this.known = await withKey(listModels);
    } catch (error) {
      this.say(error.message);
      return;
    }
    this.notice.hidden = true;
    for (const picker of this.pickers) picker.offer(this.known);
    this.onChange();
    const isLoading = this.known.every((model) => model.loaded === false);
    if (isLoading) setTimeout(() => this.refresh(), POLL_MS);
  }

  say(message) {
    const again = el("button", { type: "button", class: "retry", onclick: () => this.refresh() }, icon("again"), "Try again");
    this.notice.replaceChildren(el("p", { role: "alert" }, message), again);
    this.notice.hidden = false;
  }

  showSecond(isShown) {
    this.pickers[1].element.hidden = !isShown;
    this.pickers[0].element.classList.toggle("lettered", isShown);
  }
}

class Picker {
  constructor(lane, models) {
    const letter = "AB"[lane];
    this.lane = lane;
    this.select = el("select", { "aria-label": lane ? "Model of reply B" : "Model", onchange: () => this.changed(models) });
    this.facts = el("span", { class: "facts" });
    const about = iconButton("about", lane ? "About model B" : "About this model", () => showAbout(models.of(lane)));
    this.element = el(
      "div",
      { class: "picker", hidden: lane > 0 },
      el("span", { class: "letter", "aria-hidden": "true" }, letter),
      this.select,
      about,
      this.facts,
    );
  }

  changed(models) {
    this.facts.textContent = summary(models.of(this.lane));
    models.onChange();
  }

  /** The second lane begins with the second model, if there is one. */
  offer(known) {
    const chosen = known.find(({ id }) => id === this.select.value) ?? known[Math.min(this.lane, known.length - 1)];
    this.select.replaceChildren(...known.map(({ id }) => el("option", { value: id }, id)));
    if (chosen) this.select.value = chosen.id;
    this.facts.textContent = summary(chosen);
  }
}
