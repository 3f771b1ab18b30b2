/** Width changes nothing: chapter "many_features". */
import {
  describeEnd,
  describeMoment,
  drawNeurons,
  drawResidual,
  drawSharpness,
} from "../figures/wide.js";
import * as scalar from "../lib/scalar.js";
import * as wide from "../lib/wide.js";
import { slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

const ETA = 0.1;
const Y = 1;
const R = 0.05;
const STEPS = 60;
/** The largest width; drawn one after the other, more neurons would be a cloud. */
const WIDEST = 60;

/** @param {Record<string, number>} given @returns {import("../figures/wide.js").State} */
function compute({ width, factor, draw }) {
  const start = (factor * 2) / ETA;
  const point = scalar.at(R, Math.sqrt(start * start - 4 * Y * Y), Y);
  const common = { y: Y, eta: ETA, steps: STEPS };
  const run = wide.descend({ ...wide.startLike(point, width, draw), ...common });
  const twin = scalar.descend({ start: point, ...common });
  const last = Math.min(run.last, twin.last);
  const gaps = run.residual.slice(0, last + 1).map((r, t) => Math.abs(r - twin.residual[t]));
  const weights = [...run.u[0], ...run.v[0]].map(Math.abs);
  return {
    key: JSON.stringify([width, factor, draw]),
    width,
    eta: ETA,
    y: Y,
    run,
    twin,
    last,
    apart: Math.max(...gaps),
    reach: Math.max(...weights),
    times: Array.from({ length: STEPS + 1 }, (_, t) => t),
  };
}

/** @param {DOMStringMap} given */
export function widthFigure(given) {
  const first = numbers(given, { width: 24, factor: 1.3, draw: 1 });
  const controls = {
    width: slider({ key: "width", label: "Width", min: 1, max: WIDEST, value: first.width, step: 1 }),
    factor: slider({ key: "factor", label: "Start, × 2/η", min: 0.8, max: 1.6, value: first.factor, step: 0.01 }),
    draw: slider({ key: "draw", label: "Draw of the weights", min: 1, max: 99, value: first.draw, step: 1 }),
  };
  const square = (/** @type {number} */ width) => (width > 560 ? 1.25 : 1.05);
  const domain = () => /** @type {[number, number]} */ ([0, 1]);
  return liveFigure({
    controls,
    presets: {
      "Width 24": first,
      "Width 3": { ...first, width: 3 },
      "Other weights": { ...first, draw: 7 },
      "Further past 2/η": { ...first, factor: 1.5 },
      Stable: { ...first, factor: 0.9 },
    },
    compute,
    length: (state) => state.last,
    rate: () => 5,
    beside: ["neurons", "sharp"],
    plots: (redraw) => ({
      neurons: new Plot({
        title: "Every neuron in the plane of its weights",
        x: { label: "weight of the first layer", domain: domain() },
        y: { label: "weight of the second", domain: domain() },
        aspect: square,
        equal: true,
        redraw,
      }),
      sharp: new Plot({
        title: "Sharpness of the minimum ahead",
        x: { label: "step t", domain: [0, STEPS] },
        y: { label: "sharpness", domain: domain() },
        aspect: square,
        redraw,
      }),
      residual: new Plot({
        title: "The residual, one curve for all widths",
        x: { label: "step t", domain: [0, STEPS] },
        y: { label: "ηr", domain: domain() },
        aspect: (width) => (width > 560 ? 3.2 : 1.5),
        redraw,
      }),
    }),
    connect({ sharp, residual }, { show }) {
      for (const plot of [sharp, residual]) plot.onDrag(show);
    },
    describe(state, { neurons, sharp, residual }) {
      const { run, last, reach } = state;
      neurons.x.domain = neurons.y.domain = [-1.2 * reach, 1.2 * reach];
      const levels = [...run.ahead.slice(0, last + 1), 2 / ETA].filter((v) => v < 60);
      const [low, high] = [Math.min(...levels), Math.max(...levels)];
      sharp.y.domain = [low - 0.1 * (high - low), high + 0.1 * (high - low)];
      const most = Math.max(0.02, ...run.residual.map((r) => Math.min(2, ETA * Math.abs(r))));
      residual.y.domain = [-1.1 * most, 1.1 * most];
      for (const plot of [sharp, residual]) plot.x.domain = [0, Math.max(1, last)];
      controls.factor.hint(`2/η = ${format(2 / ETA)}`);
      return describeEnd(state);
    },
    draw(state, plots, t) {
      drawNeurons(plots.neurons, state, t);
      drawSharpness(plots.sharp, state, t);
      drawResidual(plots.residual, state, t);
      return describeMoment(state, t);
    },
  });
}
