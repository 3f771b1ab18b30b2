/** An oscillation that comes late: chapter "central_flow". */
import { describeEnd, describeMoment, drawExcess, drawSize } from "../figures/late.js";
import { coupledDynamics } from "../lib/coupled.js";
import { arrival, gradientFlow, growth, heldSize } from "../lib/late.js";
import { slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

/** In units of eta, and of an oscillation that lowers the sharpness at the rate x^2 / 2. */
const ETA = 1;
const BETA = 1;
const STEPS = 300;
/** The part of the size in the central flow from which on the oscillation is said to be there. */
const THERE = 0.9;

/** @param {Record<string, number>} given @returns {import("../figures/late.js").State} */
function compute({ power, alpha, e }) {
  const x = 10 ** power;
  const run = coupledDynamics({ x, excess: e, eta: ETA, alpha, beta: BETA, q: 0, steps: STEPS });
  const grown = growth({ x, excess: e, eta: ETA, alpha, steps: STEPS });
  const size = run.x.map(Math.abs);
  const held = heldSize(alpha, BETA);
  const crossing = -e / (ETA * alpha);
  return {
    key: JSON.stringify([power, alpha, e]),
    e,
    alpha,
    eta: ETA,
    steps: STEPS,
    run,
    held,
    growth: grown,
    size,
    crossing,
    arrival: arrival(size, THERE * held, crossing),
    predicted: arrival(grown, THERE * held, crossing),
    times: Array.from({ length: STEPS + 1 }, (_, t) => t),
  };
}

/** @param {DOMStringMap} given */
export function lateFigure(given) {
  const first = numbers(given, { power: -6, alpha: 0.002, e: -0.04 });
  const controls = {
    power: slider({
      key: "power",
      label: "Start, 10 to the power",
      min: -8,
      max: -1,
      value: first.power,
      step: 0.1,
    }),
    alpha: slider({ key: "alpha", label: "Sharpening α", min: 0.0005, max: 0.01, value: first.alpha, scale: "log" }),
    e: slider({ key: "e", label: "Start, excess ε", min: -0.1, max: 0, value: first.e, step: 0.005 }),
  };
  const wide = (/** @type {number} */ width) => (width > 560 ? 2.8 : 1.3);
  return liveFigure({
    controls,
    presets: {
      "A clean start": first,
      "Off the center": { ...first, power: -1.2, e: 0 },
      "A cleaner one": { ...first, power: -8 },
      "A slow passage": { ...first, alpha: 0.001 },
      "A fast one": { ...first, alpha: 0.006 },
    },
    compute,
    length: (state) => state.run.last,
    rate: () => 30,
    plots: (redraw) => ({
      excess: new Plot({
        title: "Three motions through the edge",
        x: { label: "step t", domain: [0, STEPS] },
        y: { label: "excess ε", domain: [-1, 1] },
        aspect: wide,
        redraw,
      }),
      size: new Plot({
        title: "The oscillation, on a logarithmic scale",
        x: { label: "step t", domain: [0, STEPS] },
        y: { label: "|x|", domain: [1e-9, 1], log: true },
        aspect: wide,
        redraw,
      }),
    }),
    connect({ excess, size }, { show }) {
      for (const plot of [excess, size]) plot.onDrag(show);
    },
    describe(state, { excess, size }) {
      const { run, held, crossing } = state;
      const seen = [...run.excess.subarray(0, run.last + 1), state.e].filter((v) => Math.abs(v) < 2);
      const top = Math.min(gradientFlow(state.e, ETA, state.alpha, STEPS), 1.6 * Math.max(...seen, 0.02));
      excess.y.domain = [1.1 * Math.min(...seen, -0.02), 1.1 * Math.max(top, 0.02)];
      for (const plot of [excess, size]) plot.x.domain = [0, Math.max(1, run.last)];
      controls.power.hint(`${format(state.size[0] / held, 2)} times the size of the central flow`);
      controls.alpha.hint(`√(2α/β) = ${format(held)}`);
      controls.e.hint(`2/η is crossed at step ${format(crossing)}`);
      return describeEnd(state);
    },
    draw(state, { excess, size }, t) {
      drawExcess(excess, state, t);
      drawSize(size, state, t);
      return describeMoment(state, t);
    },
  });
}
