/** A wide linear network beside the network of two weights whose twin it is. */
import { format } from "../ui/dom.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */

/**
 * @typedef {object} State
 * @property {string} key it changes with the state
 * @property {number} width @property {number} eta @property {number} y
 * @property {ReturnType<typeof import("../lib/wide.js").descend>} run
 * @property {import("../lib/scalar.js").Run} twin
 * @property {number} last the last step that both have
 * @property {number} apart how far the residuals of the two are apart at most
 * @property {number} reach the largest weight of the wide network at the start
 * @property {number[]} times 0, 1, 2, ...
 */

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawNeurons(plot, { key, width, run, twin, y }, t) {
  const [u, v] = [run.u[t], run.v[t]];
  plot.legend([
    { text: width === 1 ? "the neuron" : "a neuron", color: "blue", shape: "dot" },
    { text: "since the start", color: "grey", shape: "line" },
  ]);
  plot.describe(
    `The plane of the two weights of a neuron. At step ${t} the ${width === 1 ? "neuron" : `${width} neurons`} ` +
      `of the wide network ${width === 1 ? "adds" : "add"} up to the output ${format(run.residual[t] + y)}; the network of two ` +
      `weights is at (${format(twin.a[t])}, ${format(twin.b[t])}).`,
  );
  plot.draw(
    key,
    (p) => {
      p.horizontal(0, { color: "muted", width: 1 });
      p.vertical(0, { color: "muted", width: 1 });
    },
    (p) => {
      const pieces = Array.from(u, (_, j) => [run.u[0][j], run.v[0][j], u[j], v[j]]);
      p.segments(pieces, { color: "grey", width: 1, alpha: 0.7 });
      p.marks(u, v, { color: "blue", size: 3.2 }, 0, u.length - 1);
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawResidual(plot, { key, eta, run, twin, times }, t) {
  const scaled = run.residual.map((r) => eta * r);
  const thin = twin.residual.map((r) => eta * r);
  plot.describe(
    `The residual times η against the step: ${format(scaled[t])} at step ${t} for the wide network, ` +
      `${format(thin[t])} for the network of two weights.`,
  );
  plot.draw(
    key,
    (p) => p.horizontal(0, { color: "muted", width: 1 }),
    (p) => {
      p.line(times, thin, { color: "orange", width: 2.2 }, 0, t);
      p.marks(times, scaled, { color: "blue", size: 3 }, 0, t);
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawSharpness(plot, { key, eta, run, twin, times }, t) {
  plot.legend([
    { text: "minimum ahead, width one", color: "orange", shape: "line" },
    { text: "of the wide network", color: "blue", shape: "dot" },
  ]);
  plot.describe(
    `The sharpness of the minimum ahead against the step: ${format(run.ahead[0])} at the start, ` +
      `${format(run.ahead[t])} at step ${t} for the wide network, ${format(twin.minimumSharpness[t])} for the ` +
      `network of two weights; the threshold 2/η is ${format(2 / eta)}.`,
  );
  plot.draw(
    key,
    (p) => {
      p.threshold(2 / eta, "2/η");
    },
    (p) => {
      p.line(times, twin.minimumSharpness, { color: "orange", width: 2.2 }, 0, t);
      p.marks(times, run.ahead, { color: "blue", size: 3 }, 0, t);
    },
  );
}

/** @param {State} state @param {number} t */
export function describeMoment({ width, last, run, twin, y }, t) {
  return (
    `Step ${t} of ${last}: output ${format(run.residual[t] + y)} at width ${width}, ` +
    `${format(twin.residual[t] + y)} at width 1; sharpness of the minimum ahead ${format(run.ahead[t])} and ` +
    `${format(twin.minimumSharpness[t])}.`
  );
}

/** What came out, in words. @param {State} state */
export function describeEnd({ width, eta, run, twin, last, apart }) {
  if (run.diverged || twin.diverged) return `Both diverge: the start lies too far beyond 2/η = ${format(2 / eta)}.`;
  const [before, after] = [run.ahead[0], run.ahead[last]];
  const name = width === 1 ? "The one neuron" : `The ${width} neurons`;
  const same = apart < 1e-9 ? "the same in every step, but for rounding" : `up to ${format(apart)} apart`;
  return (
    `${name} and the two weights have residuals that are ${same}. ` +
    `The minimum ahead went from sharpness ${format(before)} to ${format(after)}, with 2/η = ${format(2 / eta)}.`
  );
}
