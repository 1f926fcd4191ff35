// What a model is, and what its files, its licence and its makers' word come to.

import { getModel } from "./api.js";
import { byId, copyButton, el } from "./dom.js";
import { contextOf, licence, millions, quantizationText } from "./facts.js";
import { withKey } from "./key.js";

/** Opens at once with what is known; the report comes when the server has examined the files. */
export async function showAbout(model) {
  if (!model) return;
  byId("about-title").textContent = model.id;
  const report = el("div", { "aria-live": "polite" }, el("p", { class: "note" }, "Its files are being examined…"));
  byId("about-body").replaceChildren(...aboutNodes(model), el("h3", {}, "Report"), report);
  byId("about").showModal();
  try {
    const { summary } = await withKey(() => getModel(model.id));
    report.replaceChildren(...reportNodes(summary));
  } catch (error) {
    report.replaceChildren(el("p", { class: "note" }, `There is no report: ${error.message}`));
  }
}

function reportNodes({ rows = [], error }) {
  if (error) return [el("p", { class: "note" }, `There is no report: ${error}`)];
  return [definitions(rows.map(({ label, value }) => [label, value]))];
}

function definitions(rows) {
  const list = el("dl", { class: "about" });
  for (const [name, value] of rows) list.append(el("dt", {}, name), el("dd", {}, value));
  return list;
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
  ].filter(([, value]) => value);
  const hashes = [
    ["SHA-256", model.sha256],
    ["Template SHA-256", model.template_sha256],
  ].filter(([, value]) => value);
  const list = definitions(rows);
  for (const [name, value] of hashes) {
    const entry = el("dd", { class: "hash" }, value, copyButton(`Copy ${name}`, () => value));
    list.append(el("dt", {}, name), entry);
  }
  const isWaiting = model.loaded === false;
  return isWaiting ? [el("p", { class: "note" }, "Not loaded yet: the first question loads it."), list] : [list];
}
