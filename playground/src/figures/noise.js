/** Runs that differ in the noise of their label alone: how fast they flatten, and what does it. */
import { format } from "../ui/dom.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */

/**
 * @typedef {object} State
 * @property {string} key it changes with the state
 * @property {number} product eta s / 2 at the start
 * @property {number} sigma @property {number} eta
 * @property {number} steps
 * @property {ReturnType<typeof import("../lib/noise.js").ensemble>} all
 * @property {Float64Array[]} left |kappa_t / kappa_0| of each run
 * @property {Float64Array} mean of them
 * @property {number[] | undefined} rate the same by the rate equation; there is none from 2/eta on
 * @property {number[]} times 0, 1, 2, ...
 */

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawLeft(plot, { key, left, mean, rate, times }, t) {
  plot.legend([
    { text: "each run", color: "skyblue", shape: "line" },
    { text: "their mean", color: "blue", shape: "line" },
    ...(rate ? [/** @type {const} */ ({ text: "rate of the noise and its echo", color: "green", shape: "dashed" })] : []),
  ]);
  plot.describe(
    `The imbalance as a part of that at the start, of ${left.length} runs that differ in their noise alone. ` +
      `At step ${t} their mean is ${format(mean[t])}` +
      (rate ? `; the rate equation says ${format(rate[t])}.` : "."),
  );
  plot.draw(
    key,
    (p) => {
      if (rate) p.line(times, rate, { color: "green", width: 2.2, dash: [7, 5] });
    },
    (p) => {
      for (const one of left) p.line(times, one, { color: "skyblue", width: 0.9, alpha: 0.7 }, 0, t);
      p.line(times, mean, { color: "blue", width: 2.4 }, 0, t);
      p.point(t, mean[t], { color: "text", size: 5, ring: true });
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawShares(plot, { key, all, times }, t) {
  plot.legend([
    { text: "the residual", color: "vermillion", shape: "line" },
    { text: "the noise itself", color: "blue", shape: "line" },
  ]);
  plot.describe(
    `What has been spent of the budget up to a step, on average over the runs. At step ${t} the residual has ` +
      `spent ${format(all.residual[t])} and the noise itself ${format(all.noise[t])}.`,
  );
  plot.draw(
    key,
    () => {},
    (p) => {
      p.line(times, all.noise, { color: "blue", width: 2.2 }, 0, t);
      p.line(times, all.residual, { color: "vermillion", width: 2.2 }, 0, t);
      p.point(t, all.noise[t], { color: "blue", size: 5, ring: true });
      p.point(t, all.residual[t], { color: "vermillion", size: 5, ring: true });
    },
  );
}

/** @param {State} state @param {number} t */
export function describeMoment({ all, mean, steps }, t) {
  return (
    `Step ${t} of ${steps}: ${format(100 * mean[t])} % of the imbalance is left on average; spent by the residual ` +
    `${format(all.residual[t])}, by the noise itself ${format(all.noise[t])}.`
  );
}

/** What came out, in words. @param {State} state */
export function describeEnd({ product, sigma, all, mean, rate, steps }) {
  const { diverged, runs } = all;
  const [residual, noise] = [all.residual[steps], all.noise[steps]];
  const escaped = diverged ? ` ${diverged} of ${runs.length} runs diverged, and are left out.` : "";
  if (diverged === runs.length) return "All runs diverged.";
  const end = format(100 * mean[steps]);
  if (sigma === 0 && product < 1) {
    return `Without noise, and below 2/η, nothing happens: ${end} % of the imbalance is left.`;
  }
  const spent = `The residual has spent ${format(residual)}, the noise itself ${format(noise)}`;
  if (product < 1 && rate) {
    return (
      `${spent}. Below 2/η the residual is an echo of the noise: near this start it ` +
      `spends ${format(product / (1 - product))} where the noise spends 1. ${end} % of the imbalance is left; the rate ` +
      `equation says ${format(100 * rate[steps])} %.${escaped}`
    );
  }
  const which = residual > noise ? "the residual, that is the instability, has done more" : "the noise has done more";
  return `${spent}: ${product > 1 ? "past" : "at"} 2/η, and ${which}. ${end} % of the imbalance is left.${escaped}`;
}
