/** Adam with its second moment free and held, side by side. */
import { format } from "../ui/dom.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */
/** @typedef {import("../lib/adam.js").AdamRun} AdamRun */

/**
 * @typedef {object} State
 * @property {string} key it changes with the state
 * @property {AdamRun} free @property {AdamRun} held
 * @property {number} steps
 * @property {Float64Array} times 0, 1, 2, ...
 */

const COLORS = /** @type {const} */ ({ free: "blue", held: "vermillion" });
/** What the picture of the loss shows: below it a run is at rest. */
const LOSSES = /** @type {[number, number]} */ ([1e-10, 10]);
const ENTRIES = /** @type {import("../ui/plot.js").Entry[]} */ ([
  { text: "Adam, v free", color: "blue", shape: "line" },
  { text: "v held in the rise", color: "vermillion", shape: "line" },
]);

/** @param {Float64Array} values */
const largest = (values) => values.reduce((most, v) => (v > most ? v : most), -Infinity);

/** @param {{loss: Plot, edge: Plot, sharp: Plot}} plots @param {State} state */
export function setViews({ loss, edge, sharp }, { free, held }) {
  loss.y.domain = LOSSES;
  const start = free.minimumSharpness[0];
  edge.y.domain = [0, 1.15 * Math.max(1.1, free.edge[0], largest(free.edge))];
  sharp.y.domain = [0, 1.15 * Math.max(start, Math.min(2 * start, largest(held.minimumSharpness)))];
}

/** @param {Plot} plot @param {State} state @param {number} t @param {"loss" | "edge" | "minimumSharpness"} name @param {(p: import("../ui/plot.js").Painter) => void} back */
function draw(plot, { key, free, held, times }, t, name, back) {
  plot.legend(ENTRIES);
  plot.draw(key, back, (p) => {
    for (const [arm, color] of /** @type {const} */ ([
      [free, COLORS.free],
      [held, COLORS.held],
    ])) {
      const now = Math.min(t, arm.last);
      const values = name === "loss" ? arm.loss.map((v) => Math.max(v, LOSSES[0] / 10)) : arm[name];
      p.line(times, values, { color, width: 1.8 }, 0, now);
      p.point(now, values[now], { color, size: 5, ring: true });
    }
  });
}

/** @param {State} state @param {number} t @param {"loss" | "edge" | "minimumSharpness"} name */
function both({ free, held }, t, name) {
  const say = (/** @type {AdamRun} */ arm) =>
    t > arm.last ? "beyond all numbers" : format(arm[name][t]);
  return `${say(free)} with the second moment free, ${say(held)} with it held`;
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawLoss(plot, state, t) {
  plot.describe(`The loss against the step: at step ${t} it is ${both(state, t, "loss")}.`);
  draw(plot, state, t, "loss", () => {});
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawEdge(plot, state, t) {
  plot.describe(
    `The preconditioned sharpness as a part of its threshold: at step ${t} it is ` +
      `${both(state, t, "edge")}.`,
  );
  draw(plot, state, t, "edge", (p) => {
    p.horizontal(1, { color: "vermillion", width: 1.6, dash: [7, 5] });
    p.text("38/η", p.x.domain()[1], 1, { align: "right", dx: -4, dy: -9 });
  });
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawSharpness(plot, state, t) {
  plot.describe(
    `The sharpness of the minimum ahead: at step ${t} it is ${both(state, t, "minimumSharpness")}.`,
  );
  draw(plot, state, t, "minimumSharpness", (p) => {
    p.horizontal(2, { color: "muted", width: 1 });
    p.text("flattest minimum", p.x.domain()[1], 2, { align: "right", dx: -4, dy: 10 });
  });
}

/** @param {State} state @param {number} t */
export function describeMoment(state, t) {
  return `Step ${t} of ${state.steps}: loss ${both(state, t, "loss")}.`;
}

/** What came out, in words. @param {State} state */
export function describeEnd({ free, held }) {
  const arm = (/** @type {AdamRun} */ run) =>
    run.diverged
      ? `diverges after step ${run.last}`
      : `peaks at loss ${format(largest(run.loss))}, and the minimum ahead ends at sharpness ` +
        `${format(run.minimumSharpness[run.last])}`;
  const start = format(free.minimumSharpness[0]);
  return `From sharpness ${start}: Adam ${arm(free)}. With the second moment held it ${arm(held)}.`;
}
