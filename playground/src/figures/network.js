/** The pictures of a network in training, and what they show in words. */
import { BATCHES, EXAMPLES, LAGS, TASKS, grid } from "../lib/training.js";
import { format } from "../ui/dom.js";
import { ceiling, thinned } from "../ui/history.js";
import { curvePoints, keptEntries, traceKept } from "../ui/kept.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */
/** @typedef {import("../ui/plot.js").Painter} Painter */
/** @typedef {import("../ui/plot.js").Entry} Entry */
/** @typedef {import("../ui/plot.js").Style} Style */
/** @typedef {import("../ui/history.js").History} History */
/** @typedef {import("../worker/network.js").Answer} Answer */

/**
 * A run that was kept to be compared with others, as far as it had come.
 *
 * @typedef {import("../ui/kept.js").Kept & {
 *   settings: Record<string, number>,
 *   eta: Float64Array,
 *   loss: Float64Array,
 *   lambda1: Float64Array,
 *   time: Float64Array,
 * }} Kept `time` is the sum of the rates up to each step
 */

/**
 * What of a run is shown.
 *
 * @typedef {object} View
 * @property {History} history
 * @property {Answer | undefined} latest
 * @property {Record<string, number>} values of the controls
 * @property {number} first @property {number} last the steps that are shown
 * @property {(step: number) => number} at where a step stands on the axis
 * @property {number} end the end of the axis
 * @property {Kept[]} kept
 * @property {boolean} speak whether to say in words what is drawn
 */

/** Two leading eigenvalues closer than this, relative to the first, share their directions. */
const NEAR = 0.1;
/** @type {Entry} */
const NEAR_ENTRY = { text: "λ₁ ≈ λ₂: read the span", color: "purple", shape: "line" };
/** Degrees below which v_1 is said to stand still. */
const STILL = 1;

export const degrees = (/** @type {number} */ cosine) =>
  (Math.acos(Math.min(1, cosine)) * 180) / Math.PI;

/** The sum of the rates up to each step: the time of training. @param {Float64Array} eta */
export function times(eta) {
  const sums = new Float64Array(eta.length);
  for (let t = 1; t < sums.length; t++) sums[t] = sums[t - 1] + eta[t];
  return sums;
}

function none() {}

/** The episodes in view. @param {View} view */
const episodes = ({ latest, first }) => latest?.episodes.filter((e) => e.end >= first) ?? [];

/** @param {View} view @returns {Entry[]} */
const entry = (view) =>
  episodes(view).length ? [{ text: "instability", color: "orange", shape: "area" }] : [];

/** The episodes in view, behind the curves. @param {Painter} p @param {View} view */
function shade(p, view) {
  for (const { start, end } of episodes(view)) {
    p.band([view.at(start), view.at(end)], { color: "orange", alpha: 0.25 });
  }
}

/**
 * @param {Painter} p @param {string} name @param {View} view @param {Style} style
 * @param {(value: number) => number} [shape]
 */
function trace(p, name, { history, first, last, at }, style, shape) {
  const [left, right] = p.x.range();
  const { xs, ys } = thinned(history.column(name), first, last, Math.floor(right - left));
  p.line(xs.map(at), shape ? ys.map(shape) : ys, style);
}

/** The kept runs, over the same axis. @param {Painter} p @param {"lambda1" | "loss"} name @param {View} view */
function traceOthers(p, name, { kept, values }) {
  traceKept(p, kept, (run) =>
    curvePoints(p, run[name], (t) => (values.axis === 1 ? run.time[t] : t)),
  );
}

/** @param {Plot} plot @param {View} view @param {boolean} [alone] whether λ₂ and λ₃ are left out */
export function drawSpectrum(plot, view, alone = false) {
  const { history, first, last, values, speak, at, end, kept } = view;
  const now = 2 / values.eta;
  const names = alone ? ["lambda1"] : ["lambda3", "lambda2", "lambda1"];
  let top = 1e-9;
  for (const v of history.column("lambda1").subarray(first, last + 1)) if (v > top) top = v;
  for (const run of kept) for (const v of run.lambda1) if (v > top) top = v;
  let low = 0;
  if (!alone) {
    for (const v of history.column("lambda3").subarray(first, last + 1)) if (v < low) low = v;
  }
  // A threshold far above what there is would flatten it; then the plot says where it is.
  const far = now > 4 * top;
  const limit = ceiling(1.1 * Math.max(top, far ? 0 : now));
  plot.y.domain = [low < 0 ? -ceiling(-low) : 0, limit];
  plot.legend([
    { text: "λ₁, the sharpness", color: "blue", shape: "line" },
    .../** @type {Entry[]} */ (
      alone
        ? []
        : [
            { text: "λ₂", color: "green", shape: "line" },
            { text: "λ₃", color: "purple", shape: "line" },
          ]
    ),
    { text: "2/η", color: "vermillion", shape: "dashed" },
    ...keptEntries(kept),
    ...entry(view),
  ]);
  plot.draw("", none, (p) => {
    shade(p, view);
    traceOthers(p, "lambda1", view);
    const dashed = /** @type {const} */ ({ color: "vermillion", dash: [6, 4], width: 1.5 });
    trace(p, "eta", view, dashed, (eta) => 2 / eta);
    p.segments([[at(last), now, end, now]], dashed);
    const colors = /** @type {const} */ ({ lambda3: "purple", lambda2: "green", lambda1: "blue" });
    for (const name of /** @type {(keyof typeof colors)[]} */ (names)) {
      trace(p, name, view, { color: colors[name], width: name === "lambda1" ? 2 : 1.6 });
    }
    if (history.length)
      p.point(at(last), history.last("lambda1"), { color: "blue", size: 4, ring: true });
    if (far) {
      p.text(`2/η = ${format(now)} is far above ↑`, end, limit, {
        align: "right",
        dx: -6,
        dy: 12,
        color: "vermillion",
      });
    }
  });
  if (!speak) return;
  plot.describe(
    history.length === 0
      ? "Eigenvalues over the steps; none yet."
      : view.latest?.diverged
        ? `Eigenvalues over the steps, up to where the run diverged; threshold ${format(now)}, ` +
          `crossed ${crossings(view)} times in view.`
        : `Eigenvalues over the steps. Now ${leading(history)
            .map((v) => format(v))
            .join(", ")}; ` +
          `threshold ${format(now)}, crossed ${crossings(view)} times in view.`,
  );
}

/** The latest eigenvalues; a linear model has two. @param {History} history */
function leading(history) {
  return [1, 2, 3].map((k) => history.last(`lambda${k}`)).filter((v) => !Number.isNaN(v));
}

/** How often the sharpness rises through 2/η. @param {View} view */
function crossings({ history, first, last }) {
  const [sharpness, eta] = [history.column("lambda1"), history.column("eta")];
  const above = (/** @type {number} */ t) => sharpness[t] > 2 / eta[t];
  let count = 0;
  for (let t = first + 1; t <= last; t++) if (above(t) && !above(t - 1)) count += 1;
  return count;
}

/** @param {number} lag */
export const ago = (lag) => (lag === 1 ? "1 step ago" : `${lag} steps ago`);

/** @param {Plot} plot @param {View} view */
export function drawRotation(plot, view) {
  const { history, first, last, values, speak, at } = view;
  const lag = LAGS[values.lag];
  const angle = values.angle === 1;
  const shape = angle ? degrees : undefined;
  plot.y.label = angle ? "angle, degrees" : "overlap";
  let least = 1;
  for (const name of ["lagOverlap", "startOverlap", "spanOverlap"]) {
    for (const v of history.column(name).subarray(first, last + 1)) if (v < least) least = v;
  }
  // The scale has few sizes, so that it does not change all the time.
  const [most, bottom] = [
    [15, 0.9],
    [45, 0.5],
    [90, 0],
  ].find(([, v]) => least >= v) ?? [90, 0];
  plot.y.domain = angle ? [0, 1.03 * most] : [bottom, 1 + 0.03 * (1 - bottom)];
  plot.y.ticks = angle
    ? [0, 5, 10, 15, 30, 45, 60, 90].filter((v) => most < 30 || v % 15 === 0)
    : undefined;
  const [one, two] = [history.column("lambda1"), history.column("lambda2")];
  /** @type {number[]} */
  const near = [];
  for (let i = first; i <= last; i++) if (one[i] - two[i] < NEAR * one[i]) near.push(i);
  plot.legend([
    { text: `v₁ with v₁ ${ago(lag)}`, color: "blue", shape: "line" },
    { text: "v₁ with v₁ at the last start", color: "vermillion", shape: "line" },
    { text: `span of v₁, v₂, v₃, ${ago(lag)}`, color: "grey", shape: "dotted" },
    ...(near.length ? [NEAR_ENTRY] : []),
    ...entry(view),
  ]);
  plot.draw(String(angle), none, (p) => {
    shade(p, view);
    trace(p, "spanOverlap", view, { color: "grey", dash: [2, 3] }, shape);
    trace(p, "startOverlap", view, { color: "vermillion" }, shape);
    trace(p, "lagOverlap", view, { color: "blue", width: 1.8 }, shape);
    const level = angle ? 0 : bottom;
    const pieces = near.map((i) => [at(i), level, at(i + 1), level]);
    p.segments(pieces, { color: "purple", width: 7 });
  });
  if (!speak) return;
  const said = (/** @type {string} */ name) => {
    const value = history.length ? history.last(name) : NaN;
    return Number.isNaN(value) ? "unknown" : format(value);
  };
  plot.describe(
    `Overlaps over the steps. Now ${said("lagOverlap")} with ${ago(lag)}, ${said("startOverlap")} with the ` +
      `start of the last instability, ${said("spanOverlap")} for the span of three.`,
  );
}

/** @param {Plot} plot @param {View} view */
export function drawLoss(plot, view) {
  const { history, first, last, speak, kept } = view;
  let [low, high] = [Infinity, 0];
  const shown = [history.column("loss").subarray(first, last + 1), ...kept.map(({ loss }) => loss)];
  for (const values of shown) {
    for (const v of values) {
      if (v > 0 && v < low) low = v;
      if (v > high && v < Infinity) high = v;
    }
  }
  if (high > 0) {
    const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high) + 1e-9)];
    const every = Math.ceil((to - from) / 5);
    plot.y.domain = [10 ** from, 10 ** to];
    plot.y.ticks = [];
    for (let k = from; k <= to; k += every) plot.y.ticks.push(10 ** k);
  }
  plot.legend([
    { text: "loss on all 32 examples", color: "blue", shape: "line" },
    ...keptEntries(kept),
    ...entry(view),
  ]);
  plot.draw("", none, (p) => {
    shade(p, view);
    traceOthers(p, "loss", view);
    trace(p, "loss", view, { color: "blue", width: 1.8 });
  });
  if (!speak) return;
  plot.describe(
    history.length === 0
      ? "Loss over the steps; none has been taken yet."
      : Number.isFinite(history.last("loss"))
        ? `Loss over the steps, at step ${last} it is ${format(history.last("loss"))}.`
        : `Loss over the steps, beyond all numbers at step ${last}.`,
  );
}

/** @param {Plot} plot @param {View} view */
export function drawFit(plot, { history, latest, values: { task }, speak }) {
  const inputs = grid(EXAMPLES);
  plot.legend([
    { text: "data", color: "vermillion", shape: "dot" },
    { text: "network", color: "blue", shape: "line" },
  ]);
  plot.draw("", none, (p) => {
    for (const input of inputs)
      p.point(input, TASKS[task].f(input), { color: "vermillion", size: 3 });
    if (latest) p.line(grid(latest.fit.length), latest.fit, { color: "blue", width: 2 });
  });
  if (!speak) return;
  const off = history.length ? Math.sqrt(2 * history.last("loss")) : NaN;
  plot.describe(
    `The ${EXAMPLES} examples of ${TASKS[task].name}, and the function that the network computes` +
      (Number.isFinite(off) ? `, off by ${format(off)} in root mean square.` : "."),
  );
}

/** Rows of numbers about the latest step; what a diverged run no longer has is a dash. @param {View} view @param {number} rate steps a second, 0 if unknown */
export function factsOf({ history, latest, values: { eta } }, rate) {
  const known = (/** @type {number} */ v, /** @type {string} */ text) =>
    Number.isFinite(v) ? text : "–";
  const sharpness = history.last("lambda1");
  const turn = degrees(history.last("startOverlap"));
  const residual = history.last("residual");
  return /** @type {[string, string][]} */ ([
    ["Step", String(history.length - 1)],
    ["Loss", known(history.last("loss"), format(history.last("loss")))],
    [
      "Sharpness λ₁",
      known(sharpness, `${format(sharpness)} = ${format((sharpness * eta) / 2)} × 2/η`),
    ],
    ["Turn of v₁ since the last start", known(turn, `${turn.toFixed(1)}°`)],
    ["Instabilities so far", String(latest?.episodes.length ?? 0)],
    ["Exact Hessian products", String(history.last("products"))],
    ["Largest relative residual", known(residual, format(residual))],
    ["Steps a second", rate > 0 ? String(Math.round(rate)) : "–"],
  ]);
}

/**
 * Whether v_1 turns, by what was measured.
 *
 * @param {number} overlap with itself so many steps ago @param {number} lag
 */
function turning(overlap, lag) {
  if (Number.isNaN(overlap)) return "";
  const turn = degrees(overlap);
  const steps = lag === 1 ? "in the last step" : `in the last ${lag} steps`;
  return turn < STILL
    ? `, and v₁ stands still: it turned by less than ${STILL}° ${steps}`
    : `, and v₁ turns: by ${turn.toFixed(0)}° ${steps}`;
}

/** Where the run is, in words. @param {View} view */
export function describeRun({ history, latest, values: { eta, batch, lag } }) {
  const t = history.length - 1;
  if (t < 0) return "The worker is starting.";
  const sharpness = history.last("lambda1");
  const all = latest?.episodes ?? [];
  const current = all[all.length - 1];
  if (latest?.diverged) {
    return `Diverged: at step ${t} the loss is beyond 10⁹ or no number. Lower η and press Reset.`;
  }
  if (t === 0) {
    return `Before the first step: sharpness ${format(sharpness)}, threshold 2/η = ${format(2 / eta)}. Press Play.`;
  }
  if (BATCHES[batch] !== EXAMPLES) {
    const side = sharpness > 2 / eta ? "above" : "below";
    return `Minibatches of ${BATCHES[batch]}: noise, too, raises the loss. Sharpness ${side} 2/η.`;
  }
  if (current?.open) {
    const turns = turning(history.last("lagOverlap"), LAGS[lag]);
    return `Instability ${all.length}, since step ${current.start}: the loss is above its minimum${turns}.`;
  }
  if (sharpness > 2 / eta) {
    return "Sharpness above 2/η: each step multiplies the displacement along v₁, still too small to see in the loss.";
  }
  return all.length
    ? `Stable again: the sharpness is below 2/η. Instabilities so far: ${all.length}.`
    : "Stable: the sharpness is below 2/η.";
}

/** What the reader is asked where a run has gone by itself to the threshold. @param {View} view */
export function describeArrival({ history, values: { eta } }) {
  const t = history.length - 1;
  const loss = history.column("loss");
  const fell = loss.every((v, i) => i === 0 || v < loss[i - 1]);
  const passed = history.last("lambda1") > 2 / eta;
  return (
    `Step ${t}: ${fell ? "so far the loss has fallen at every step, and " : ""}the sharpness ` +
    `${passed ? "has just passed" : "is still below"} 2/η = ${format(2 / eta)}. ` +
    "What will happen now? Say it, then press Play."
  );
}
