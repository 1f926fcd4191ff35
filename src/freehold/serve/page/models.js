// The models of the server: one picker for each lane, and what is known about each model.

import { listModels } from "./api.js";
import { byId, copyButton, el, icon, iconButton } from "./dom.js";
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

/** The facts that matter most, in one line. */
export function summary(model) {
  if (!model) return "";
  const context = contextOf(model);
  return [context && `${context.toLocaleString("en")} context`, mainFormat(model.quantization), licence(model)]
    .filter(Boolean)
    .join(" · ");
}

const contextOf = (model) => model.context ?? model.max_model_len;

/** How many tensors there are in each format, the commonest first: [["Q4_1", 210], …]. */
function formats(quantization) {
  const totals = {};
  for (const counts of Object.values(quantization ?? {})) {
    for (const [format, number] of Object.entries(counts)) totals[format] = (totals[format] ?? 0) + number;
  }
  return Object.entries(totals).sort((a, b) => b[1] - a[1]);
}

/** That of most matrices; norms stay in F32 whatever the quantization. */
function mainFormat(quantization) {
  if (typeof quantization === "string") return quantization;
  const all = formats(quantization);
  return (all.find(([format]) => format !== "F32") ?? all[0])?.[0];
}

function licence({ licence: said }) {
  if (!said || typeof said === "string") return said;
  return said["general.license"] ?? said["general.license.name"];
}

function showAbout(model) {
  if (!model) return;
  byId("about-title").textContent = model.id;
  byId("about-body").replaceChildren(...aboutNodes(model));
  byId("about").showModal();
}

function aboutNodes(model) {
  const context = contextOf(model);
  const rows = [
    ["Architecture", model.architecture],
    ["Parameters", model.parameters && `${millions(model.parameters)} (${model.parameters.toLocaleString("en")})`],
    ["Context", context && `${context.toLocaleString("en")} tokens`],
    ["Trained for", model.trained_context && `${model.trained_context.toLocaleString("en")} tokens`],
    ["Quantization", quantizationText(model.quantization)],
    ["Licence", model.licence === undefined ? null : (licence(model) ?? "the file names none")],
    ["Reasoning", model.reasoning === undefined ? null : model.reasoning ? "yes" : "no"],
    ["SHA-256", model.sha256],
    ["Template SHA-256", model.template_sha256],
  ].filter(([, value]) => value);
  const list = el("dl", { class: "about" });
  for (const [name, value] of rows) {
    const entry = el("dd", { class: name.endsWith("SHA-256") ? "hash" : null }, value);
    if (name.endsWith("SHA-256")) entry.append(copyButton(`Copy ${name}`, () => value));
    list.append(el("dt", {}, name), entry);
  }
  const isWaiting = model.loaded === false;
  return isWaiting ? [el("p", { class: "note" }, "Not loaded yet: the first question loads it."), list] : [list];
}

function quantizationText(quantization) {
  if (typeof quantization === "string") return quantization;
  return formats(quantization)
    .map(([format, number], index) => `${number}${index ? "" : " tensors"} in ${format}`)
    .join(", ");
}

const millions = (number) => (number < 1e9 ? `${(number / 1e6).toFixed(0)} M` : `${(number / 1e9).toPrecision(3)} B`);
