// What is asked for beside the words: sampling for each lane, the system prompt, tools, and how the page looks.

import { byId, el } from "./dom.js";

const EFFORTS = { none: "Off", medium: "On" }; // where a template knows nothing between
const EXAMPLE = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather in a place, now.",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

export class Settings {
  constructor() {
    this.dialog = byId("settings");
    this.lanes = [0, 1].map((lane) => new LaneSettings(lane));
    byId("lanes").append(...this.lanes.map((lane) => lane.element));
    byId("open-settings").addEventListener("click", () => this.dialog.showModal());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    byId("tools").addEventListener("input", () => this.checkTools());
    byId("tools-example").addEventListener("click", () => {
      byId("tools").value = JSON.stringify(EXAMPLE, null, 2);
      this.checkTools();
    });
    chooseTheme();
  }

  get system() {
    return byId("system").value;
  }

  /** The tools, an empty list where there are none, or null while they are not valid. */
  get tools() {
    try {
      return readTools(byId("tools").value);
    } catch {
      return null;
    }
  }

  /** Whether everything can be sent; what cannot is shown. */
  check(numLanes) {
    const wrong = this.lanes.slice(0, numLanes).flatMap((lane) => lane.invalid)[0];
    if (!wrong && this.tools) return true;
    if (!this.dialog.open) this.dialog.showModal();
    if (wrong) wrong.reportValidity();
    else this.showTools();
    return false;
  }

  checkTools() {
    const field = byId("tools");
    let message = "";
    try {
      byId("tools-note").textContent = readTools(field.value)
        .map((tool) => tool.function.name)
        .join(", ");
    } catch (error) {
      message = error.message;
    }
    byId("tools-error").textContent = message;
    field.setAttribute("aria-invalid", String(Boolean(message)));
  }

  showTools() {
    byId("tools-section").open = true;
    byId("tools").focus();
  }

  /** Show what suits the lanes: their models, and whether there are two. */
  fit(models, isComparing) {
    this.lanes[1].element.hidden = !isComparing;
    this.lanes.forEach((lane, index) => lane.fit(models[index], isComparing));
  }
}

class LaneSettings {
  constructor(lane) {
    this.letter = "AB"[lane];
    this.element = byId("lane-template").content.cloneNode(true).firstElementChild;
    this.legend = this.element.querySelector("legend");
    this.effort = this.element.querySelector("select");
    this.inputs = [...this.element.querySelectorAll("input")];
  }

  get invalid() {
    return this.inputs.filter((input) => !input.checkValidity());
  }

  /** The fields of a request; what was left empty is left to the server. */
  get values() {
    const given = this.inputs.filter((input) => input.value !== "").map((input) => [input.name, input.valueAsNumber]);
    const effort = this.effort.value && { reasoning_effort: this.effort.value };
    return { ...Object.fromEntries(given), ...effort };
  }

  fit(model, isComparing) {
    const efforts = model?.reasoning_efforts ?? [];
    const isSwitch = efforts.length === 2 && efforts.every((effort) => effort in EFFORTS);
    this.legend.textContent = isComparing ? `Reply ${this.letter}${model ? `: ${model.id}` : ""}` : "Sampling";
    this.effort.closest("label").hidden = !efforts.length;
    const names = ["", ...efforts];
    if (names.join() === [...this.effort.options].map((option) => option.value).join()) return;
    const label = (effort) => (isSwitch ? EFFORTS[effort] : effort === "none" ? "off" : effort);
    this.effort.replaceChildren(
      ...names.map((effort) => el("option", { value: effort }, effort ? label(effort) : "As the model’s template says")),
    );
  }
}

/** Throws an Error that says what is wrong and where. */
function readTools(text) {
  if (!text.trim()) return [];
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    throw new Error(`Not JSON: ${error.message}`);
  }
  if (!Array.isArray(tools)) throw new Error("Expected a list: [ … ]");
  tools.forEach((tool, index) => {
    const where = `Tool ${index + 1}`;
    if (tool?.type !== "function") throw new Error(`${where}: expected "type": "function"`);
    if (typeof tool.function?.name !== "string" || !tool.function.name) throw new Error(`${where}: "function" needs a "name"`);
    const { parameters } = tool.function;
    if (parameters !== undefined && (typeof parameters !== "object" || !parameters || Array.isArray(parameters))) {
      throw new Error(`${where}: "parameters" must be a JSON schema, an object`);
    }
  });
  return tools;
}

function chooseTheme() {
  const root = document.documentElement;
  for (const choice of document.querySelectorAll("[name=theme]")) {
    choice.checked = choice.value === root.dataset.theme;
    choice.addEventListener("change", () => {
      root.dataset.theme = choice.value;
      localStorage.setItem("freehold-theme", choice.value);
    });
  }
}
