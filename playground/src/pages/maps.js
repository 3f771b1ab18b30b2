/** The playground of gradient descent on a loss of one variable. */
import { diagram, drawCobweb, drawDiagram, drawLoss, drawTime, longRun } from "../figures/maps.js";
import { LOSSES, compute } from "../runs/maps.js";
import { choice, dragControls, slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { differences } from "../ui/kept.js";
import { mount } from "../ui/page.js";
import { Plot } from "../ui/plot.js";
import { shownRun } from "../ui/run.js";

const BASE = { eta: 2.6, loss: 0, skew: 0, x: 0.1, steps: 40 };
const PRESETS = {
  Settles: { ...BASE, eta: 1.8, x: 0.6 },
  "Period two": BASE,
  "Broken symmetry": { ...BASE, eta: 3.15 },
  "Period four": { ...BASE, eta: 3.25, steps: 80 },
  Chaos: { ...BASE, eta: 3.6, steps: 80 },
  "Island in chaos": { ...BASE, eta: 3.832, steps: 80 },
  "Wide valley": { ...BASE, eta: 3.2, loss: 2 },
  "Steeper far away": { ...BASE, eta: 2.05, loss: 1 },
};

const SYMBOLS = { skew: "s" };

const wide = (/** @type {number} */ width) => (width > 560 ? 2.2 : 1.2);
const low = (/** @type {number} */ width) => (width > 560 ? 3.6 : 1.4);
const square = (/** @type {number} */ width) => (width > 560 ? 1.2 : 0.95);

mount("maps", () => {
  const controls = {
    eta: slider({
      key: "eta",
      label: "Learning rate η",
      min: 0.5,
      max: 4,
      value: BASE.eta,
      step: 0.001,
    }),
    loss: choice({
      key: "loss",
      label: "Loss",
      options: LOSSES.map((l) => l.name),
      value: BASE.loss,
    }),
    skew: slider({ key: "skew", label: "Skew s", min: -1, max: 1, value: BASE.skew, step: 0.01 }),
    x: slider({ key: "x", label: "Start x₀", min: -1, max: 1, value: BASE.x, step: 0.01 }),
    steps: slider({ key: "steps", label: "Steps", min: 10, max: 400, value: BASE.steps, step: 10 }),
  };
  const domain = () => /** @type {[number, number]} */ ([0, 1]);
  /** @type {{shape: string, points: ReturnType<typeof diagram>} | undefined} */
  let kept;
  /** The diagram's points, which do not depend on the learning rate. */
  const pointsOf = (/** @type {ReturnType<typeof compute>} */ state) => {
    if (kept?.shape !== state.shape) kept = { shape: state.shape, points: diagram(state) };
    return kept.points;
  };
  const shown = shownRun({
    name: "maps",
    controls,
    presets: PRESETS,
    caption: "The long run in numbers",
    compute,
    length: (state) => state.last,
    rate: (length) => Math.max(3, length / 12),
    plots: (redraw) => ({
      diagram: new Plot({
        title: "The bifurcation diagram: drag along it",
        x: { label: "learning rate η", domain: domain() },
        y: { label: "x", domain: domain() },
        aspect: wide,
        redraw,
      }),
      cobweb: new Plot({
        title: "The map of one step",
        x: { label: "x", domain: domain() },
        y: { label: "next x", domain: domain() },
        aspect: square,
        redraw,
      }),
      loss: new Plot({
        title: "The loss",
        x: { label: "x", domain: domain() },
        y: { label: "L(x)", domain: domain() },
        aspect: square,
        redraw,
      }),
      time: new Plot({
        title: "The iterate against the step",
        x: { label: "step t", domain: domain() },
        y: { label: "x", domain: domain() },
        aspect: low,
        redraw,
      }),
    }),
    overSteps: ({ time }) => [time],
    keeps: {
      // As exact as it was typed: a start a thousandth away is another orbit.
      name: (values) =>
        [
          `x₀ = ${format(values.x, 9)}`,
          `η = ${format(values.eta, 6)}`,
          ...(values.loss ? [LOSSES[values.loss].name] : []),
          ...differences(values, BASE, SYMBOLS),
        ].join(", "),
      curves: { time: { values: ({ x }) => x } },
    },
    connect(plots, changed) {
      plots.diagram.element.classList.add("pg-wide");
      plots.diagram.onDrag((eta) => {
        controls.eta.set(Number(eta.toFixed(3)));
        changed();
      });
      for (const plot of [plots.cobweb, plots.loss]) dragControls(plot, changed, controls.x);
    },
    describe(state, plots, given) {
      const { eta, loss, reach, rates, period, settled, multiplier, cycle, last, x } = state;
      plots.diagram.x.domain = rates;
      plots.diagram.y.domain = [-reach, reach];
      plots.cobweb.x.domain = plots.cobweb.y.domain = [-reach, reach];
      plots.loss.x.domain = [-reach, reach];
      const heights = Array.from({ length: 81 }, (_, i) => loss(reach * (i / 40 - 1)));
      plots.loss.y.domain = [Math.min(0, ...heights), 1.05 * Math.max(...heights)];
      plots.time.x.domain = [0, Math.max(1, last)];
      plots.time.y.domain = [-reach, reach];
      controls.eta.hint(`L″(0) = 1, so that 2/η = ${format(2 / eta)}`);
      controls.skew.hint(given.loss === 2 ? "this loss has none" : "the third derivative at 0");
      const end = longRun(state);
      const attracts = Math.abs(multiplier) < 1;
      const exact = cycle(eta);
      return {
        verdict: `${end[0].toUpperCase()}${end.slice(1)}.`,
        rows: [
          [
            "Period",
            settled.length === 0 ? "diverged" : period === 0 ? "none up to 32" : String(period),
          ],
          [
            "Multiplier of the cycle",
            period ? `${format(multiplier)}${attracts ? ": it attracts" : ""}` : "none",
          ],
          [
            "Points",
            period
              ? settled
                  .slice(0, Math.min(period, 4))
                  .map((v) => format(v))
                  .join(", ") + (period > 4 ? ", …" : "")
              : "none",
          ],
          ["Exact symmetric cycle ±x", Number.isNaN(exact) ? "none" : `±${format(exact, 5)}`],
          ["Mean of the long run", settled.length ? format(mean(settled, period)) : "diverged"],
          [
            "Steps until divergence",
            last < x.length - 1 ? String(last + 1) : "none among those shown",
          ],
        ],
      };
    },
    draw(state, plots, t) {
      const { x, loss } = state;
      drawDiagram(plots.diagram, state, () => pointsOf(state));
      drawCobweb(plots.cobweb, state, t);
      drawLoss(plots.loss, state, t);
      drawTime(plots.time, state, t);
      return `Step ${t} of ${state.last}: x = ${format(x[t], 4)}, loss ${format(loss(x[t]))}.`;
    },
  });
  return { ...shown, points: () => pointsOf(shown.state()) };
});

/** The mean over whole periods. @param {number[]} settled @param {number} period */
function mean(settled, period) {
  const shown = period ? settled.slice(0, period) : settled;
  const value = shown.reduce((sum, v) => sum + v, 0) / shown.length;
  // What is left by rounding, or by the last bit of the way to the cycle, is none.
  return Math.abs(value) < 1e-9 ? 0 : value;
}
