// What a reply took: measured here, and by the server where it says so.

export class Stopwatch {
  constructor() {
    this.began = performance.now();
    this.first = null; // when the first piece came
    this.last = null;
    this.thoughtUntil = null;
    this.pieces = 0;
  }

  piece(isReasoning) {
    this.last = performance.now();
    this.first ??= this.last;
    if (isReasoning) this.thoughtUntil = this.last;
    this.pieces += 1;
  }

  get reasoningSeconds() {
    return this.thoughtUntil === null ? null : (this.thoughtUntil - this.began) / 1000;
  }

  /** While the reply runs: a piece is mostly a token. */
  get running() {
    const seconds = (performance.now() - this.first) / 1000;
    if (!this.first || seconds < 0.3) return this.first ? "answering" : "waiting";
    return `≈ ${rate((this.pieces - 1) / seconds)}`;
  }

  /** `usage` and `timings` as the last chunk brought them, or null where it did not come. */
  figures(usage, timings, finishReason) {
    const seconds = (this.last - this.first) / 1000;
    const tokens = usage?.completion_tokens ?? null;
    const measured = tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null;
    return {
      completion_tokens: tokens,
      pieces: this.pieces,
      prompt_tokens: usage?.prompt_tokens ?? null,
      cached_tokens: usage?.prompt_tokens_details?.cached_tokens || null,
      reasoning_tokens: usage?.completion_tokens_details?.reasoning_tokens || null,
      reasoning_s: this.reasoningSeconds,
      time_to_first_token_s: this.first === null ? null : (this.first - this.began) / 1000,
      tokens_per_s: timings?.decode_tokens_per_s || measured,
      finish_reason: finishReason,
    };
  }
}

/** One line of figures. */
export function describe(figures) {
  const { completion_tokens, pieces, prompt_tokens, cached_tokens, time_to_first_token_s, tokens_per_s } = figures;
  return [
    completion_tokens !== null ? count(completion_tokens) : pieces > 0 && `≈ ${count(pieces)}`,
    tokens_per_s && rate(tokens_per_s),
    time_to_first_token_s !== null && `first after ${seconds(time_to_first_token_s)}`,
    prompt_tokens !== null && `prompt ${prompt_tokens}${cached_tokens ? ` (${cached_tokens} cached)` : ""}`,
    ENDINGS[figures.finish_reason],
  ]
    .filter(Boolean)
    .join(" · ");
}

const ENDINGS = { length: "cut off at the token limit", stopped: "stopped by you", failed: "ended by an error" };

export const count = (tokens) => `${tokens.toLocaleString("en")} token${tokens === 1 ? "" : "s"}`;
const rate = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en")} tokens/s`;

export function seconds(value) {
  if (value < 0.9995) return `${Math.max(1, Math.round(value * 1000))} ms`;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
}
