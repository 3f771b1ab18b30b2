/** Adam with its second moment free or held: chapter "adam". */
import { describeEnd, describeMoment, drawEdge, drawLoss, drawSharpness, setViews } from "../figures/adam.js";
import { EDGE, EPSILON, adam, preconditionedSharpness } from "../lib/adam.js";
import * as scalar from "../lib/scalar.js";
import { slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

const Y = 1;
const R = 0.001;
const STEPS = 160;

/**
 * Both arms from one start, with one second moment: that with which the preconditioned sharpness is
 * the given part of its threshold.
 *
 * @param {Record<string, number>} given
 */
function compute({ factor, s, beta2, eta }) {
  const start = scalar.at(R, Math.sqrt(s * s - 4 * Y * Y), Y);
  const plain = preconditionedSharpness(...start, Y, [1, 1]);
  const scale = (plain * eta) / (EDGE * factor) - EPSILON;
  const run = (/** @type {boolean} */ held) =>
    adam({ start, y: Y, eta, beta2, scale, steps: STEPS, held });
  const [free, held] = [run(false), run(true)];
  return {
    key: JSON.stringify([factor, s, beta2, eta]),
    free,
    held,
    scale,
    steps: STEPS,
    times: Float64Array.from({ length: STEPS + 1 }, (_, t) => t),
  };
}

/** @param {DOMStringMap} given */
export function adamFigure(given) {
  const first = numbers(given, { factor: 1.05, s: 6, beta2: 0.99, eta: 0.1 });
  const controls = {
    factor: slider({
      key: "factor",
      label: "Start, × the threshold",
      min: 0.8,
      max: 1.3,
      value: first.factor,
      step: 0.01,
    }),
    s: slider({ key: "s", label: "Starting sharpness", min: 3, max: 12, value: first.s, step: 0.1 }),
    beta2: slider({ key: "beta2", label: "β₂", min: 0.8, max: 0.999, value: first.beta2, step: 0.001 }),
    eta: slider({ key: "eta", label: "Learning rate η", min: 0.01, max: 0.3, value: first.eta, step: 0.01 }),
  };
  const square = (/** @type {number} */ width) => (width > 560 ? 1.35 : 1.2);
  const domain = () => /** @type {[number, number]} */ ([0, 1]);
  return liveFigure({
    controls,
    presets: {
      "Past the threshold": first,
      "Further past it": { ...first, factor: 1.2 },
      "A slower second moment": { ...first, beta2: 0.999 },
      "Below the threshold": { ...first, factor: 0.9 },
    },
    compute,
    length: (state) => state.steps,
    rate: () => 16,
    beside: ["edge", "sharp"],
    plots: (redraw) => ({
      loss: new Plot({
        title: "The loss against the step",
        x: { label: "step t", domain: [0, STEPS] },
        y: { label: "loss", domain: [1e-9, 1], log: true },
        aspect: (width) => (width > 560 ? 3 : 1.5),
        redraw,
      }),
      edge: new Plot({
        title: "Preconditioned sharpness",
        x: { label: "step t", domain: [0, STEPS] },
        y: { label: "as a part of 38/η", domain: domain() },
        aspect: square,
        redraw,
      }),
      sharp: new Plot({
        title: "Sharpness of the minimum ahead",
        x: { label: "step t", domain: [0, STEPS] },
        y: { label: "sharpness", domain: domain() },
        aspect: square,
        redraw,
      }),
    }),
    connect(plots, { show }) {
      for (const plot of Object.values(plots)) plot.onDrag(show);
    },
    describe(state, plots) {
      setViews(plots, state);
      controls.factor.hint(`second moment ${format(state.scale ** 2)}`);
      controls.eta.hint(`threshold 38/η = ${format(EDGE / controls.eta.get())}`);
      return describeEnd(state);
    },
    draw(state, { loss, edge, sharp }, t) {
      drawLoss(loss, state, t);
      drawEdge(edge, state, t);
      drawSharpness(sharp, state, t);
      return describeMoment(state, t);
    },
  });
}
