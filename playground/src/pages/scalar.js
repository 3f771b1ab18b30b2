/** The playground of the scalar network of depth two: L = (a b - y)^2 / 2. */
import {
  describeOutcome,
  describePrediction,
  drawBudget,
  drawPlane,
  drawSharpness,
  drawTurn,
  planePlot,
  setViews,
  sharpnessPlot,
  turnPlot,
} from "../figures/scalar.js";
import { compute } from "../runs/scalar.js";
import { slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { differences } from "../ui/kept.js";
import { mount } from "../ui/page.js";
import { Plot } from "../ui/plot.js";
import { shownRun } from "../ui/run.js";

const BASE = { eta: 0.1, s: 22, r: 0.01, y: 1, noise: 0, seed: 1, steps: 80 };
const PRESETS = {
  Stable: { ...BASE, s: 18, r: 0.3 },
  "One instability": BASE,
  Goldilocks: { ...BASE, s: 31, steps: 150 },
  "Past √2": { ...BASE, s: 37.6 },
  "Period two": { ...BASE, eta: 1.1, s: 2.5, r: 0.1 },
  "Label noise": { ...BASE, s: 18, noise: 1, steps: 400 },
  Diverges: { ...BASE, s: 41 },
};

const SYMBOLS = { r: "r₀", y: "y", noise: "σ", seed: "seed" };

const wide = (/** @type {number} */ width) => (width > 560 ? 2.6 : 1.2);
const square = (/** @type {number} */ width) => (width > 560 ? 1.2 : 0.95);

mount("scalar", () => {
  const controls = {
    eta: slider({
      key: "eta",
      label: "Learning rate η",
      min: 0.02,
      max: 2,
      value: BASE.eta,
      scale: "log",
    }),
    s: slider({ key: "s", label: "Starting sharpness", min: 1, max: 60, value: BASE.s, step: 0.1 }),
    r: slider({ key: "r", label: "First residual r₀", min: -5, max: 5, value: BASE.r, step: 0.01 }),
    y: slider({ key: "y", label: "Target y", min: -3, max: 3, value: BASE.y, step: 0.05 }),
    noise: slider({
      key: "noise",
      label: "Label noise σ",
      min: 0,
      max: 3,
      value: BASE.noise,
      step: 0.05,
    }),
    seed: slider({
      key: "seed",
      label: "Seed of the noise",
      min: 1,
      max: 50,
      value: BASE.seed,
      step: 1,
    }),
    steps: slider({
      key: "steps",
      label: "Steps",
      min: 20,
      max: 1000,
      value: BASE.steps,
      step: 10,
    }),
  };
  const domain = () => /** @type {[number, number]} */ ([0, 1]);
  return shownRun({
    name: "scalar",
    controls,
    presets: PRESETS,
    caption: "The whole run in numbers",
    compute,
    length: (state) => state.run.last,
    plots: (redraw) => ({
      plane: planePlot(redraw, square),
      turn: turnPlot(redraw, square),
      sharp: sharpnessPlot(redraw, wide),
      budget: new Plot({
        title: "The instability budget over the run",
        x: { label: "step t", domain: domain() },
        y: { label: "", domain: domain() },
        aspect: wide,
        redraw,
      }),
    }),
    overSteps: ({ sharp, budget }) => [sharp, budget],
    keeps: {
      name: (values, { start }) =>
        [
          `η = ${format(values.eta)}`,
          `from sharpness ${format(start)}`,
          ...differences(values, BASE, SYMBOLS),
        ].join(", "),
      curves: {
        sharp: { what: "minimum ahead", values: ({ run }) => run.minimumSharpness },
        budget: { what: "budget", values: ({ spent }) => spent },
      },
      rates: true,
      path: {
        plot: "plane",
        points: ({ run }) => [run.a, run.b],
        over: ({ y }) => String(y),
      },
    },
    describe(state, plots, given) {
      const { eta, r, floor, start, run, noisy, spent, flattened, shares } = state;
      setViews(plots, state);
      controls.eta.hint(`2/η = ${format(2 / eta)}, 4/η = ${format(4 / eta)}`);
      controls.s.hint(
        given.s < floor
          ? `raised to the flattest, 2|y| = ${format(floor)}`
          : `${format((start * eta) / 2)} × 2/η, of the minimum ahead`,
      );
      controls.r.hint(`η r₀ = ${format(eta * r)}`);
      controls.y.hint(`flattest sharpness 2|y| = ${format(floor)}`);
      controls.noise.hint(noisy ? `η σ = ${format(eta * given.noise)}` : "none");
      controls.seed.hint(noisy ? "" : "without noise it has no effect");
      const end = run.last;
      const relative = (/** @type {number} */ v) => `${format(v)} = ${format((v * eta) / 2)} × 2/η`;
      const unless = (/** @type {string} */ text) => (run.diverged ? "diverged" : text);
      const swing = run.residual
        .subarray(0, end + 1)
        .reduce((m, v) => Math.max(m, Math.abs(eta * v)), 0);
      return {
        verdict: describeOutcome(state),
        rows: [
          ["Sharpness of the minimum ahead at the start", relative(start)],
          [`The same after ${end} steps`, unless(relative(run.minimumSharpness[end]))],
          ["Predicted by reflection, 4/η − start", describePrediction(state, state.predicted)],
          ["Predicted to second order", describePrediction(state, state.refined)],
          ["Largest swing, max η|r|", unless(format(swing))],
          [noisy ? "Budget Σ η²(r + ξ)²" : "Budget Σ η²r²", unless(format(spent[end]))],
          .../** @type {[string, string][]} */ (
            noisy
              ? [
                  [
                    "of it residual, noise, cross term",
                    unless(
                      Object.values(shares)
                        .map((v) => format(v[end]))
                        .join(", "),
                    ),
                  ],
                ]
              : []
          ),
          ["Flattening −log |κ/κ₀|", unless(format(flattened[end]))],
          [
            "Escape margin at the start",
            `${format(state.margin)}${state.margin < 0 ? ": it escapes" : ""}`,
          ],
        ],
      };
    },
    draw(state, plots, t) {
      const { run, eta } = state;
      drawPlane(plots.plane, state, t);
      drawTurn(plots.turn, state, t);
      drawSharpness(plots.sharp, state, t);
      drawBudget(plots.budget, state, t);
      return (
        `Step ${t} of ${run.last}: residual ${format(run.residual[t])}, ` +
        `sharpness ${format(run.sharpness[t])} = ${format((run.sharpness[t] * eta) / 2)} × 2/η, ` +
        `v₁ at ${format((run.angle[t] * 180) / Math.PI)}°, ` +
        `minimum ahead ${format(run.minimumSharpness[t])}.`
      );
    },
  });
});
