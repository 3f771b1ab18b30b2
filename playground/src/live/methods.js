/** The thresholds of four methods on one axis: chapter "other_thresholds". */
import { METHODS, RANGE, describeEnd, describeMoment, drawFactors, drawSizes } from "../figures/methods.js";
import * as quadratic from "../lib/quadratic.js";
import { slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

const STEPS = 40;

/** @param {Record<string, number>} given @returns {import("../figures/methods.js").State} */
function compute({ z, beta }) {
  const arms = METHODS.map((one) => {
    const x = quadratic.iterate(one.method, [z], [1], 1, STEPS, beta).map(([v]) => v);
    return {
      ...one,
      x,
      size: x.map(Math.abs),
      radius: quadratic.spectralRadius(one.method, z, 1, beta),
      threshold: quadratic.stabilityThreshold(one.method, 1, beta),
    };
  });
  const times = Array.from({ length: STEPS + 1 }, (_, t) => t);
  return { key: JSON.stringify([z, beta]), z, beta, arms, times };
}

/** @param {DOMStringMap} given */
export function methodsFigure(given) {
  const first = numbers(given, { z: 3, beta: 0.9 });
  const controls = {
    z: slider({ key: "z", label: "ηλ", min: RANGE.low, max: RANGE.high, value: first.z, scale: "log" }),
    beta: slider({ key: "beta", label: "Momentum β", min: 0, max: 0.95, value: first.beta, step: 0.01 }),
  };
  return liveFigure({
    controls,
    presets: {
      "Past 2": first,
      "Below all": { ...first, z: 1 },
      "Only Nesterov fails": { ...first, z: 1.7 },
      "Only Adam holds": { ...first, z: 20 },
      "No momentum": { ...first, beta: 0 },
    },
    compute,
    length: () => STEPS,
    rate: () => 5,
    plots: (redraw) => ({
      factors: new Plot({
        title: "Factor per step: drag ηλ",
        x: { label: "ηλ", domain: [RANGE.low, RANGE.high], log: true, ticks: [0.1, 1, 10, 100], format: String },
        y: { label: "factor per step", domain: [0, 1.6] },
        aspect: (width) => (width > 560 ? 2.8 : 1.4),
        redraw,
      }),
      sizes: new Plot({
        title: "The coordinate along the eigenvector",
        x: { label: "step t", domain: [0, STEPS] },
        y: { label: "|x|", domain: [1e-3, 1e3], log: true },
        aspect: (width) => (width > 560 ? 2.8 : 1.3),
        redraw,
      }),
    }),
    connect({ factors, sizes }, { changed, show }) {
      factors.onDrag((z) => {
        controls.z.set(Number(z.toPrecision(3)));
        changed();
      });
      sizes.onDrag(show);
    },
    describe(state) {
      controls.z.hint(`thresholds ${state.arms.map((arm) => format(arm.threshold)).join(", ")}`);
      controls.beta.hint("β₁ for Adam; gradient descent has none");
      return describeEnd(state);
    },
    draw(state, { factors, sizes }, t) {
      drawFactors(factors, state);
      drawSizes(sizes, state, t);
      return describeMoment(state, t);
    },
  });
}
