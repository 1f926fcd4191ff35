// What is known about a model, in words.

/** The facts that matter most, in one line. */
export function summary(model) {
  if (!model) return "";
  const context = contextOf(model);
  return [context && `${context.toLocaleString("en")} context`, mainFormat(model.quantization), licence(model)]
    .filter(Boolean)
    .join(" · ");
}

export const contextOf = (model) => model.context ?? model.max_model_len;

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

/** What the file says; undefined or null where it says nothing. */
export function licence({ licence: said }) {
  if (!said || typeof said === "string") return said;
  return said["general.license"] ?? said["general.license.name"];
}

/** "48 tensors in F32, 24 in Q4_K". */
export function quantizationText(quantization) {
  if (typeof quantization === "string") return quantization;
  return formats(quantization)
    .map(([format, number], index) => `${number}${index ? "" : " tensors"} in ${format}`)
    .join(", ");
}

export const millions = (number) => (number < 1e9 ? `${(number / 1e6).toFixed(0)} M` : `${(number / 1e9).toPrecision(3)} B`);
