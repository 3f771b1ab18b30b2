/** Past the threshold along the bifurcation diagram: chapter "beyond_quadratic". */
import { diagram, drawCobweb, drawDiagram, drawLoss, longRun } from "../figures/maps.js";
import { compute } from "../runs/maps.js";
import { dragControls, slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

const STEPS = 60;

/** @param {DOMStringMap} given */
export function bifurcationFigure(given) {
  const first = numbers(given, { eta: 1.8, x: 0.3 });
  const controls = {
    eta: slider({
      key: "eta",
      label: "Learning rate η",
      min: 1.5,
      max: 4,
      value: first.eta,
      step: 0.001,
    }),
    x: slider({ key: "x", label: "Start x₀", min: -0.95, max: 0.95, value: first.x, step: 0.01 }),
  };
  /** @type {ReturnType<typeof diagram> | undefined} the diagram depends on no control */
  let points;
  const square = (/** @type {number} */ width) => (width > 560 ? 1.3 : 1.1);
  const domain = () => /** @type {[number, number]} */ ([0, 1]);
  return liveFigure({
    controls,
    presets: {
      Settles: { ...first, eta: 1.8 },
      "Period two": { ...first, eta: 2.5 },
      "Period four": { ...first, eta: 3.25 },
      Chaos: { ...first, eta: 3.6 },
    },
    compute: (values) => compute({ ...values, loss: 0, skew: 0, steps: STEPS }),
    length: (state) => state.last,
    rate: () => 6,
    beside: ["loss", "cobweb"],
    plots: (redraw) => ({
      diagram: new Plot({
        title: "Where orbits live in the long run: drag along it",
        x: { label: "learning rate η", domain: domain() },
        y: { label: "x", domain: domain() },
        aspect: (width) => (width > 560 ? 2.6 : 1.3),
        redraw,
      }),
      loss: new Plot({
        title: "The orbit on the loss",
        x: { label: "x", domain: domain() },
        y: { label: "L(x)", domain: [0, 0.3] },
        aspect: square,
        redraw,
      }),
      cobweb: new Plot({
        title: "The map of one step",
        x: { label: "x", domain: domain() },
        y: { label: "next x", domain: domain() },
        aspect: square,
        redraw,
      }),
    }),
    connect({ diagram: plot, loss, cobweb }, { changed }) {
      plot.onDrag((eta) => {
        controls.eta.set(Number(eta.toFixed(3)));
        changed();
      });
      for (const other of [loss, cobweb]) dragControls(other, changed, controls.x);
    },
    describe(state, { diagram: plot, loss, cobweb }) {
      const { rates, reach, eta } = state;
      plot.x.domain = rates;
      for (const axis of [plot.y, loss.x, cobweb.x, cobweb.y]) axis.domain = [-reach, reach];
      controls.eta.hint(`L″(0) = 1: the threshold is at η = 2`);
      const end = longRun(state);
      return `At η = ${format(eta, 4)} ${end}.`;
    },
    draw(state, plots, t) {
      drawDiagram(plots.diagram, state, () => (points ??= diagram(state)));
      drawLoss(plots.loss, state, t);
      drawCobweb(plots.cobweb, state, t);
      const { x, loss, last } = state;
      return `Step ${t} of ${last}: x = ${format(x[t], 4)}, loss ${format(loss(x[t]))}.`;
    },
  });
}
