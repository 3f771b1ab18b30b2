/** Label noise below the threshold and past it: chapter "noise". */
import { describeEnd, describeMoment, drawLeft, drawShares } from "../figures/noise.js";
import { ensemble, rateEquation } from "../lib/noise.js";
import * as scalar from "../lib/scalar.js";
import { slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

const Y = 1;
const ETA = 0.1;
const R = 0.01;
const STEPS = 300;
const COPIES = 12;

/** @param {Record<string, number>} given @returns {import("../figures/noise.js").State} */
function compute({ product, sigma }) {
  const sharpness = (2 * product) / ETA;
  const kappa = Math.sqrt(sharpness * sharpness - 4 * Y * Y);
  const common = { y: Y, sigma, eta: ETA, steps: STEPS };
  const all = ensemble({ start: scalar.at(R, kappa, Y), ...common, copies: COPIES });
  return {
    key: JSON.stringify([product, sigma]),
    product,
    sigma,
    eta: ETA,
    steps: STEPS,
    all,
    left: all.runs.map((run) => run.kappa.map((k) => Math.abs(k) / kappa)),
    mean: all.kappa.map((k) => k / kappa),
    rate: product < 1 ? rateEquation({ kappa, ...common }).map((k) => k / kappa) : undefined,
    times: Array.from({ length: STEPS + 1 }, (_, t) => t),
  };
}

/** @param {DOMStringMap} given */
export function noiseFigure(given) {
  const first = numbers(given, { product: 0.5, sigma: 0.5 });
  const controls = {
    product: slider({ key: "product", label: "Start, × 2/η", min: 0.3, max: 1.4, value: first.product, step: 0.01 }),
    sigma: slider({ key: "sigma", label: "Noise of the label σ", min: 0, max: 1, value: first.sigma, step: 0.01 }),
  };
  const square = (/** @type {number} */ width) => (width > 560 ? 1.2 : 1.05);
  return liveFigure({
    controls,
    presets: {
      "Half way to 2/η": first,
      "Close to it": { ...first, product: 0.9 },
      "Past it, little noise": { product: 1.2, sigma: 0.05 },
      "Past it, much noise": { product: 1.2, sigma: 1 },
    },
    compute,
    length: () => STEPS,
    rate: () => 40,
    beside: ["left", "shares"],
    plots: (redraw) => ({
      left: new Plot({
        title: "The imbalance that is left",
        x: { label: "step t", domain: [0, STEPS] },
        y: { label: "|κ| / |κ₀|", domain: [0, 1.05] },
        aspect: square,
        redraw,
      }),
      shares: new Plot({
        title: "What has flattened it",
        x: { label: "step t", domain: [0, STEPS] },
        y: { label: "spent of the budget", domain: [0, 1] },
        aspect: square,
        redraw,
      }),
    }),
    connect({ left, shares }, { show }) {
      for (const plot of [left, shares]) plot.onDrag(show);
    },
    describe(state, { shares }) {
      const { all, product } = state;
      const most = Math.max(all.residual[STEPS], all.noise[STEPS]);
      shares.y.domain = [0, 1.15 * (most > 1e-9 ? most : 1)];
      controls.product.hint(`sharpness ${format((2 * product) / ETA)}, 2/η = ${format(2 / ETA)}`);
      controls.sigma.hint(`ησ = ${format(ETA * state.sigma)}`);
      return describeEnd(state);
    },
    draw(state, { left, shares }, t) {
      drawLeft(left, state, t);
      drawShares(shares, state, t);
      return describeMoment(state, t);
    },
  });
}
