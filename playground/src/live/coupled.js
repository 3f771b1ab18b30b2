/** The phase portrait of an instability, with alpha, beta and q: chapter "instability_cycle". */
import {
  REACH,
  describeEnd,
  describeMoment,
  drawExcess,
  drawPortrait,
} from "../figures/coupled.js";
import { coupledDynamics } from "../lib/coupled.js";
import { dragControls, slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

/** In units of eta, on which nothing depends besides them. */
const ETA = 1;
const STEPS = 300;

/** @param {DOMStringMap} given */
export function portraitFigure(given) {
  const first = numbers(given, { alpha: 0.01, beta: 1, q: 0, x: 0.2, e: 0 });
  const controls = {
    alpha: slider({
      key: "alpha",
      label: "Sharpening α",
      min: 0,
      max: 0.04,
      value: first.alpha,
      step: 0.001,
    }),
    beta: slider({
      key: "beta",
      label: "Restoring β",
      min: 0.3,
      max: 3,
      value: first.beta,
      step: 0.05,
    }),
    q: slider({ key: "q", label: "Fourth derivative q", min: -8, max: 4, value: first.q, step: 0.1 }),
    x: slider({ key: "x", label: "Start, |x|", min: 0.01, max: 0.6, value: first.x, step: 0.01 }),
    e: slider({ key: "e", label: "Start, ε", min: -0.35, max: 0.35, value: first.e, step: 0.01 }),
  };
  return liveFigure({
    controls,
    presets: {
      "Sharpening": first,
      "One reflection": { ...first, alpha: 0, x: 0.01, e: 0.2 },
      "Held by q": { ...first, q: -4 },
      "Pushed out by q": { ...first, q: 2 },
    },
    compute(values) {
      const { alpha, beta, q, x, e } = values;
      const run = coupledDynamics({ x, excess: e, eta: ETA, alpha, beta, q, steps: STEPS });
      const size = run.x.map(Math.abs);
      const times = Float64Array.from(size.keys());
      return { key: JSON.stringify(values), alpha, beta, q, eta: ETA, run, size, times };
    },
    length: (state) => state.run.last,
    rate: () => 20,
    beside: ["portrait", "excess"],
    plots: (redraw) => ({
      portrait: new Plot({
        title: "The phase portrait: drag the start",
        x: { label: "size of the oscillation |x|", domain: [0, REACH.x] },
        y: { label: "excess ε", domain: [-REACH.excess, REACH.excess] },
        aspect: (width) => (width > 560 ? 1.2 : 1.05),
        redraw,
      }),
      excess: new Plot({
        title: "The excess against the step",
        x: { label: "step t", domain: [0, STEPS] },
        y: { label: "excess ε", domain: [-REACH.excess, REACH.excess] },
        aspect: (width) => (width > 560 ? 1.2 : 1.05),
        redraw,
      }),
    }),
    connect({ portrait, excess }, { changed, show }) {
      dragControls(portrait, changed, controls.x, controls.e);
      excess.onDrag(show);
    },
    describe(state, plots) {
      const { alpha, beta, q } = state;
      plots.excess.x.domain = [0, Math.max(1, state.run.last)];
      controls.alpha.hint(alpha > 0 ? `at rest |x| = ${format(Math.sqrt((2 * alpha) / beta))}` : "none");
      controls.q.hint(`−3ηβ = ${format(-3 * ETA * beta)}${q < -3 * ETA * beta ? ": below it" : ""}`);
      return describeEnd(state);
    },
    draw(state, plots, t) {
      drawPortrait(plots.portrait, state, t);
      drawExcess(plots.excess, state, t);
      return describeMoment(state, t);
    },
  });
}
